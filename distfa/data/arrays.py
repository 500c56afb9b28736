"""A Dataset from what a user already has in memory: arrays, tensors, nested lists, or a loader of batches."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from distfa.data.build import Split, build_dataset, to_array
from distfa.data.dataset import Array, Dataset
from distfa.data.labels import is_text, to_numbers
from distfa.errors import DataError

_FIX = "each item must be one batch (x, y): wrap a data set of single samples in torch.utils.data.DataLoader"


def from_arrays(
    train: Any, test: Any = None, *, name: str = "arrays", outputs: int | None = None, tokens: int | None = None
) -> Dataset:
    """A Dataset whose inputs are used as they are: mean 0, std 1.

    ``train`` and ``test`` are each a pair (x, y) or an iterable of batches (x, y), which is read once. A
    tuple or list of two items is a pair, unless both items are batches, that is a tuple or list of two arrays or
    tensors of equal length. So a ``list(DataLoader(...))`` of two batches is read correctly.

    Args:
        train: x (N, ...), whose sample shape is kept; y is labels (N,), float targets (N, outputs) or, if x is tokens
            (N, T) or sequences (N, T, features), a label for every position (N, T).
            Arrays of the final dtype and layout are not copied: leave them unchanged while they are in use.
        test: As ``train``; None is a test split of 0 samples.
        name: What messages and reports call it.
        outputs: Number of classes; None is the largest label in train and test plus 1.
        tokens: Size of the vocabulary, if the integers of x stand for symbols 0 .. tokens - 1 (for an
            ``nn.Embedding``). None: they are quantities and become floats.

    Raises:
        DataError: The data have neither form, batches do not fit together, or a rule of ``validate`` is broken.
    """
    return build_dataset(
        name=name,
        train=read_pair(train, f"{name} train"),
        test=None if test is None else read_pair(test, f"{name} test"),
        outputs=outputs,
        scale=(0.0, 1.0),
        tokens=None if tokens is None else _count(tokens),
    )


def read_pair(data: Any, where: str) -> Split:
    """(x, y) of a pair or of all batches; y may be text.

    Args:
        data: As ``from_arrays`` takes it.
        where: What messages call it.

    Raises:
        DataError: The data have neither form, or batches do not fit together.
    """
    if is_pair(data):
        return to_numpy(data[0], f"{where}_x"), to_numpy(data[1], f"{where}_y", text=True)
    try:
        batches = iter(data)
    except TypeError as exc:
        raise DataError(f"{where}: a {type(data).__name__} is neither a pair (x, y) nor an iterable of them") from exc
    if isinstance(data, (str, bytes, dict)) or _is_array(data):
        raise DataError(f"{where}: a {type(data).__name__} alone has no targets; give a pair (x, y)")
    pairs = [read_batch(batch, f"{where} batch {number}") for number, batch in enumerate(batches)]
    if not pairs:
        raise DataError(f"{where}: the iterable has no batches; a generator that has already been read is empty")
    return _join([x for x, _ in pairs], f"{where}_x"), _join([y for _, y in pairs], f"{where}_y")


def read_batch(batch: Any, where: str) -> Split:
    """(x, y) of one batch; y may be text.

    Raises:
        DataError: It is not a pair of arrays of equal length.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        found = f"{type(batch).__name__} of {len(batch)}" if hasattr(batch, "__len__") else type(batch).__name__
        raise DataError(f"{where} is a {found}; {_FIX}")
    x, y = to_numpy(batch[0], f"{where} x"), to_numpy(batch[1], f"{where} y", text=True)
    if x.ndim == 0 or y.ndim == 0:
        raise DataError(f"{where} has x of shape {x.shape} and y of shape {y.shape}; {_FIX}")
    if len(x) != len(y):
        raise DataError(f"{where} has {len(x)} samples in x and {len(y)} in y; every sample needs one target")
    return x, y


def _join(parts: list[Array], where: str) -> Array:
    for number, part in enumerate(parts):
        if part.shape[1:] != parts[0].shape[1:]:
            raise DataError(
                f"{where}: batch {number} has samples of shape {part.shape[1:]} but batch 0 has "
                f"{parts[0].shape[1:]}; all samples must have the same shape"
            )
    return np.concatenate(parts)


def _count(tokens: Any) -> int:
    try:
        return operator.index(tokens)
    except TypeError as exc:
        raise DataError(f"tokens is {tokens!r}; it is the size of the vocabulary and must be an integer") from exc


def is_pair(data: Any) -> bool:
    """Whether data are a pair (x, y), not two batches."""
    return isinstance(data, (tuple, list)) and len(data) == 2 and not all(_is_batch(item) for item in data)


def _is_batch(item: Any) -> bool:
    if not isinstance(item, (tuple, list)) or len(item) != 2 or not all(_is_array(part) for part in item):
        return False
    return all(part.ndim > 0 for part in item) and len(item[0]) == len(item[1])


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or _is_tensor(value)


def _is_tensor(value: Any) -> bool:
    import torch  # here, so that listing the names of data sets does not load torch

    return isinstance(value, torch.Tensor)


def to_numpy(value: Any, where: str, *, text: bool = False) -> Array:
    """Anything that has an array's form, as one: tensors on any device and of any type, arrays, lists, pandas objects.

    Args:
        value: The values.
        where: What messages call them.
        text: Whether they may also be text, as labels are.

    Raises:
        DataError: A value is missing, or they have no numpy form.
    """
    if isinstance(value, (tuple, list)) and any(_is_tensor(item) for item in value):
        value = [_host(item, where) if _is_tensor(item) else item for item in value]
    if _is_tensor(value):
        value = _host(value, where)
    elif hasattr(value, "to_numpy"):
        value = value.to_numpy()
    try:
        found = to_numbers(np.asarray(value), where)
    except (ValueError, TypeError) as exc:
        raise DataError(f"{where} cannot become one array ({exc}); all samples must have the same shape") from exc
    if text and (is_text(found) or found.dtype.kind == "O"):
        return found.astype(str)
    return to_array(found, where)


def _host(tensor: Any, where: str) -> Array:
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point() and tensor.element_size() < 4:
        tensor = tensor.float()  # numpy has no bfloat16; float32 holds each narrower type exactly
    try:
        found: Array = tensor.numpy()
    except (TypeError, RuntimeError) as exc:
        raise DataError(f"{where}: a {tensor.dtype} tensor has no numpy form ({exc}); make it dense") from exc
    return found
