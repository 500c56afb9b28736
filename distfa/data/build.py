"""Turns the arrays that a loader found into a validated Dataset: flatten, convert dtypes, scale, check.

Every loader ends here, so the rules of ``validate`` hold for every data set.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distfa.data.checks import check_positions, check_tokens
from distfa.data.dataset import TOKEN_DTYPES, Array, Dataset, validate
from distfa.errors import DataError

log = logging.getLogger(__name__)
Split = tuple[Array, Array]
Scale = tuple[float | NDArray[np.float64], float | NDArray[np.float64]]

_MOST_INFERRED_CLASSES = 1 << 20
_ROWS_PER_CHUNK = 4096


def build_dataset(
    *,
    name: str,
    train: Split,
    test: Split | None = None,
    outputs: int | None = None,
    scale: Scale | None = None,
    shape: tuple[int, ...] | None = None,
    tokens: int | None = None,
    source: str = "",
    class_names: tuple[str, ...] = (),
    vocabulary: tuple[str, ...] = (),
) -> Dataset:
    """Flatten, convert, scale and validate.

    Args:
        name: What messages and reports call the data set.
        train: x (N, ...) and y, labels (N,) or, for sequences, (N, T), or float targets (N, outputs).
            Arrays that already have the final dtype and layout are used without a copy.
        test: As ``train``; None is a test split of 0 samples.
        outputs: Number of classes, or width of the targets; None is the largest label of both splits
            plus 1, or the width of the train targets.
        scale: Mean and std in raw units, each one number or (d,); None measures one number each over
            the train split, and 0 and 1 for tokens.
        shape: Shape of one sample; None is that of train x.
        tokens: Size of the vocabulary if inputs are integers that stand for symbols, else None.
        source: Which edition of the data this is, or "".
        class_names: What labels stand for, by number.
        vocabulary: What tokens stand for, by number.

    Raises:
        DataError: A dtype cannot be used, or a rule of ``validate`` is broken.
    """
    sample = train[0].shape[1:] or (1,)
    shape = tuple(int(size) for size in (sample if shape is None else shape))
    train_x = to_inputs(train[0], tokens, f"{name} train_x")
    train_y = _targets(train[1], shape, tokens, outputs, f"{name} train_y")
    if test is None:
        test = np.empty((0, *sample), train_x.dtype), np.empty((0, *train_y.shape[1:]), train_y.dtype)
    test_x = to_inputs(test[0], tokens, f"{name} test_x")
    test_y = _targets(test[1], shape, tokens, outputs, f"{name} test_y")
    if (test[0].shape[1:] or (1,)) != sample:
        raise DataError(
            f"{name}: train_x has samples of shape {sample} but test_x of {test[0].shape[1:]}; both splits must "
            "have the same shape"
        )
    if tokens is not None:
        scale = (0.0, 1.0)
    mean, std = measure_mean_and_std(train_x) if scale is None else scale
    return validate(
        Dataset(
            name=name,
            train_x=train_x,
            train_y=train_y,
            test_x=test_x,
            test_y=test_y,
            outputs=_count_outputs(name, train_y, test_y) if outputs is None else outputs,
            measured=scale is None,
            mean=np.atleast_1d(np.asarray(mean, np.float64)),
            std=np.atleast_1d(np.asarray(std, np.float64)),
            shape=shape,
            tokens=tokens,
            source=source,
            class_names=class_names,
            vocabulary=vocabulary,
        )
    )


def measure_mean_and_std(x: Array) -> tuple[float, float]:
    """Mean and standard deviation over all values of (N, d), without a float64 copy of the whole array."""
    if x.size == 0:
        return 0.0, 1.0
    with np.errstate(invalid="ignore", over="ignore"):
        mean = float(x.mean(dtype=np.float64))
        chunks = (x[start : start + _ROWS_PER_CHUNK] for start in range(0, len(x), _ROWS_PER_CHUNK))
        squares = sum(float(np.square(chunk - np.float64(mean)).sum()) for chunk in chunks)
    return mean, math.sqrt(squares / x.size) if math.isfinite(squares) else math.inf


def to_array(value: Any, where: str) -> Array:
    """Anything numpy reads, as an array of real numbers.

    Raises:
        DataError: It holds ragged lists, objects, text or complex numbers.
    """
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as exc:
        raise DataError(f"{where} cannot become one array ({exc}); all samples must have the same shape") from exc
    if array.dtype.kind not in "buif" or array.dtype.itemsize > 8:
        raise DataError(
            f"{where} is {array.dtype}; values must be bool, integers or floats of at most 64 bits: "
            "convert with astype, and encode text or objects as numbers"
        )
    return array


def to_inputs(value: Array, tokens: int | None, where: str) -> Array:
    """Samples (n, ...) as a Dataset has them: (n, d), in one of its dtypes.

    Raises:
        DataError: They hold no numbers, or tokens outside the vocabulary.
    """
    x = _samples(value, where)
    if tokens is not None:
        dtype = _token_dtype(x, tokens, where)
    elif x.dtype.kind == "b" or x.dtype == np.uint8:
        dtype = np.dtype(np.uint8)
    else:
        # The narrowest float that holds the integer type: float32 up to 16 bits, float64 above.
        dtype = np.result_type(x.dtype, np.float32)
    return np.ascontiguousarray(x.reshape(len(x), math.prod(x.shape[1:])), dtype=dtype)


def _token_dtype(x: Array, tokens: int, where: str) -> np.dtype[Any]:
    """The narrowest of the token dtypes that holds the integer type."""
    if x.dtype.kind not in "iu":
        raise DataError(f"{where} is {x.dtype}; tokens must be integers 0 .. {tokens - 1}: convert with astype")
    check_tokens(x.reshape(len(x), math.prod(x.shape[1:])), tokens, where)  # before uint64 becomes int64
    return next((dtype for dtype in TOKEN_DTYPES if np.can_cast(x.dtype, dtype)), np.dtype(np.int64))


def _targets(value: Array, shape: tuple[int, ...], tokens: int | None, outputs: int | None, where: str) -> Array:
    y = _samples(value, where)
    if y.ndim == 1:
        return to_labels(y, where)
    if y.dtype.kind == "f":
        return np.ascontiguousarray(y, dtype=np.result_type(y.dtype, np.float32))
    check_positions(y, shape, tokens, where)
    if _is_one_hot(y) and outputs in (None, y.shape[1]):
        raise DataError(
            f"{where} is {y.dtype} of shape {y.shape} with a single 1 in every row: for one-hot rows use argmax(1); "
            "for a label 0 or 1 at every position give the number of classes (outputs=2)"
        )
    return to_labels(y, where)


def _is_one_hot(y: Array) -> bool:
    """Whether every integer row (n, T) is 0 except for a single 1."""
    return bool(len(y) and y.min() >= 0 and y.max() <= 1 and (y.sum(axis=1) == 1).all())


def _samples(value: Array, where: str) -> Array:
    array = to_array(value, where)
    if array.ndim == 0:
        raise DataError(f"{where} is the single value {array}; its first axis must count samples")
    return array


def to_labels(y: Array, where: str) -> Array:
    """Labels as a Dataset has them: int64.

    Raises:
        DataError: They are floats, or too large.
    """
    if y.dtype.kind == "f":
        wrong = np.flatnonzero(y != np.floor(y))
        value = f"label {y[wrong[0]]} at row {wrong[0]} is not an integer" if len(wrong) else f"labels are {y.dtype}"
        raise DataError(
            f"{where}: {value}; class labels must have an integer dtype: use astype('int64') for classes "
            "or reshape(-1, 1) for regression targets"
        )
    if y.dtype == np.uint64 and y.size and int(y.max()) > np.iinfo(np.int64).max:
        row = int(np.argmax(y)) // math.prod(y.shape[1:])
        raise DataError(f"{where} has label {y.max()} at row {row}; renumber the labels from 0")
    return np.ascontiguousarray(y, dtype=np.int64)


def _count_outputs(name: str, train_y: Array, test_y: Array) -> int:
    if train_y.dtype.kind == "f":
        return int(train_y.shape[-1])
    largest = max((int(y.max()) for y in (train_y, test_y) if y.dtype.kind != "f" and y.size), default=0)
    if largest >= _MOST_INFERRED_CLASSES:
        raise DataError(
            f"{name}: the largest label is {largest}, which would make {largest + 1} classes; renumber the labels "
            "from 0, or give the number of classes"
        )
    if train_y.ndim == 1 and train_y.size and train_y.min() == 1:
        log.warning("%s: labels start at 1, so class 0 has no samples; subtract 1 from them", name)
    return max(largest, 0) + 1
