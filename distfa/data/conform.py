"""Applies the reading that the first fit fixed to other data: columns, layout, normalisation, targets, in this order.

What can be read in one way only is read so; all else is refused by name.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from distfa.data.checks import check_labels
from distfa.data.dataset import Array, Dataset
from distfa.data.labels import list_names, number_labels
from distfa.data.reading import Reading
from distfa.data.units import is_same_scale, scale_for
from distfa.errors import DataError

Shape = tuple[int, ...]


def conform(
    dataset: Dataset, reading: Reading, *, convolves: bool = False, normalised: bool | None = None, targets: bool = True
) -> Dataset:
    """The data set as the network that was trained reads it.

    Args:
        dataset: Its scale is its own: 0 and 1 for arrays.
        reading: What the first fit fixed.
        convolves: Whether the network begins with a convolution, whose channels are first: samples that have them last
            are turned, signals (T, C) too.
        normalised: Whether its samples are already normalised; None: decided by their values.
        targets: Whether it has targets; if not, zeros in their form stand in for them.

    Raises:
        DataError: It does not fit the reading.
    """
    name = dataset.name
    if (dataset.tokens is None) != (reading.tokens is None):
        has, had = ("numbers", "tokens") if dataset.tokens is None else ("tokens", "numbers")
        raise DataError(f"{name}: samples are {has}, but the model was trained on {had}; pass them as in the first fit")
    if reading.vocabulary and dataset.vocabulary not in ((), reading.vocabulary):
        raise DataError(f"{name}: its tokens stand for different symbols than those the model was trained on")
    dataset = reshape_samples(reorder_columns(dataset, reading.columns), reading.shape, convolves=convolves)
    own, splits = (dataset.mean, dataset.std), _splits(dataset)
    (mean, std), other = (
        scale_for(x, own, reading, normalised=normalised, where=f"{where}x") if len(x) else own
        for where, x, _ in splits
    )
    if len(dataset.test_x) and not is_same_scale((mean, std), other):  # one of the splits is normalised already
        test_x = (dataset.test_x - other[0]) / other[1] * std + mean
        dataset = dataclasses.replace(dataset, test_x=test_x.astype(np.float32))
    return dataclasses.replace(
        _replace_targets(dataset, reading, known=targets),
        mean=mean,
        std=std,
        outputs=reading.outputs,
        class_names=reading.class_names,
        vocabulary=reading.vocabulary,
        columns=reading.columns,
        target=reading.target,
        fixed=reading,
    )


def reorder_columns(dataset: Dataset, wanted: tuple[str, ...]) -> Dataset:
    """The data set with the columns of its table in the order of ``wanted``; without names they are as they must be.

    Raises:
        DataError: A column is missing, or there is one more.
    """
    found = dataset.columns
    if not wanted or not found or found == wanted:
        return dataset
    order = find_columns(found, wanted)

    def ordered(values: Array) -> Array:
        return np.ascontiguousarray(values[..., order])

    return dataclasses.replace(_rearrange(dataset, ordered), columns=wanted)


def _rearrange(dataset: Dataset, change: Callable[[Array], Array]) -> Dataset:
    """The data set with the numbers of every sample in another order, and what scales them, too."""
    return dataclasses.replace(
        dataset,
        train_x=change(dataset.train_x),
        test_x=change(dataset.test_x),
        mean=dataset.mean if dataset.mean.size == 1 else change(dataset.mean),
        std=dataset.std if dataset.std.size == 1 else change(dataset.std),
    )


def find_columns(found: tuple[str, ...], wanted: tuple[str, ...]) -> list[int]:
    """Where each wanted column is.

    Raises:
        DataError: A column is missing, or there is one more.
    """
    missing, more = [c for c in wanted if c not in found], [c for c in found if c not in wanted]
    if missing:
        raise DataError(
            f"the table has no column {list_names(list(map(repr, missing)))}, which the model was trained on; it has "
            f"{list_names(found)}"
        )
    if more:
        raise DataError(
            f"the table has the column {list_names(list(map(repr, more)))}, which the model was not trained on; remove "
            "it"
        )
    return [found.index(column) for column in wanted]


def reshape_samples(dataset: Dataset, wanted: Shape, *, convolves: bool = False) -> Dataset:
    """The data set with samples of another shape, where only one way leads there.

    Raises:
        DataError: No way leads there.
    """
    shape = dataset.shape
    axes = find_axes(shape, wanted, convolves=convolves, to_back=not convolves)
    if axes is None:
        alone = len(dataset.train_x) * math.prod(shape) == math.prod(wanted)
        raise DataError(
            f"samples have shape {shape}, but the model was trained on {wanted}; pass them in the same shape"
            + ("  (for a single sample, x[None])" if alone else "")
        )
    turned = dataset if list(axes) == list(range(len(shape))) else move_axes(dataset, axes)
    return dataclasses.replace(turned, shape=wanted)


def align(x: Array, wanted: Shape, *, convolves: bool = False) -> Array:
    """Samples (n, ...) in the shape of others, where only one way leads there; else as they are."""
    axes = find_axes(x.shape[1:], wanted, convolves=convolves, to_back=True)
    return x if axes is None else x.transpose(0, *(axis + 1 for axis in axes)).reshape(len(x), *wanted)


def find_axes(shape: Shape, wanted: Shape, *, convolves: bool, to_back: bool) -> tuple[int, ...] | None:
    """The order of axes in which samples of one shape, once reshaped, have another; None if there is no one way.

    Samples may be flat, lack an axis of one channel or have it in another place, and have their channels first or last.

    Args:
        shape: What they have.
        wanted: What they are to have.
        convolves: Whether signals (T, C) have channels, too.
        to_back: Whether channels may be wanted last.
    """
    as_they_are = tuple(range(len(shape)))
    if shape == wanted:
        return as_they_are
    same_size = math.prod(shape) == math.prod(wanted)
    if same_size and (min(len(shape), len(wanted)) < 2 or _without_ones(shape) == _without_ones(wanted)):
        return as_they_are
    if len(shape) != len(wanted) or not (len(shape) > 2 or convolves):
        return None
    orders = [(as_they_are[-1], *as_they_are[:-1]), *([(*as_they_are[1:], 0)] if to_back else [])]
    return next((axes for axes in orders if tuple(shape[axis] for axis in axes) == wanted), None)


def move_axes(dataset: Dataset, axes: tuple[int, ...]) -> Dataset:
    """The data set with the axes of every sample in another order.

    Raises:
        DataError: Samples are made when they are read.
    """
    shape = dataset.shape
    if not isinstance(dataset.train_x, np.ndarray):
        raise DataError(
            f"samples of the data set have shape {shape}, but the model reads "
            f"{tuple(shape[axis] for axis in axes)}: have __getitem__ return "
            f"x.permute({', '.join(map(str, axes))})"
        )

    def turned(rows: Array) -> Array:
        return np.ascontiguousarray(rows.reshape(-1, *shape).transpose(0, *(axis + 1 for axis in axes))).reshape(
            rows.shape
        )

    return dataclasses.replace(_rearrange(dataset, turned), shape=tuple(shape[axis] for axis in axes))


def _without_ones(shape: Shape) -> Shape:
    return tuple(size for size in shape if size != 1)


def _replace_targets(dataset: Dataset, reading: Reading, *, known: bool) -> Dataset:
    def read(where: str, y: Array) -> Array:
        if known and not isinstance(y, np.ndarray):
            return _labels_of_shards(y, dataset, reading)
        return _targets(y, dataset.class_names, reading, f"{where}y") if known else _blank(len(y), reading)

    first, second = (read(where, y) for where, _, y in _splits(dataset))
    return dataclasses.replace(dataset, train_y=first, test_y=second)


def _labels_of_shards(y: Array, dataset: Dataset, reading: Reading) -> Array:
    """Labels that are read later, as they are; their largest is known."""
    if not reading.labels or reading.positions > 1 or dataset.outputs > reading.outputs:
        raise DataError(
            f"{dataset.name}: labels are 0 to {dataset.outputs - 1}, one for each sample, but the model was trained on "
            f"{reading.outputs} {'classes' if reading.labels else 'float targets'}"
            f"{' at each position' if reading.positions > 1 else ''}; use shards like those"
        )
    return y


def _blank(rows: int, reading: Reading) -> Array:
    """Targets that are not known."""
    if not reading.labels:
        return np.zeros((rows, reading.outputs), np.float32)
    return np.zeros(rows if reading.positions == 1 else (rows, reading.positions), np.int64)


def _splits(dataset: Dataset) -> list[tuple[str, Array, Array]]:
    """Inputs and targets of both splits, and how messages begin to name them."""
    name, both = dataset.name, len(dataset.test_x) > 0
    return [
        (f"{name} train_" if both else f"{name} ", dataset.train_x, dataset.train_y),
        (f"{name} test_", dataset.test_x, dataset.test_y),
    ]


def _targets(y: Array, names: tuple[str, ...], reading: Reading, where: str) -> Array:
    """Targets under the numbers of the first fit."""
    if not reading.labels:
        if y.dtype.kind != "f" and (y.ndim == 1) == (reading.outputs == 1):
            y = y.astype(np.float32).reshape(len(y), -1)
        if y.dtype.kind != "f" or y.shape[1:] != (reading.outputs,):
            raise DataError(
                f"{where} is {y.dtype} of shape {y.shape}, but the model was trained on float targets (n, "
                f"{reading.outputs}); pass such targets"
            )
        return y
    y = as_labels(y, reading)
    if y.dtype.kind == "f":
        raise DataError(
            f"{where} is {y.dtype} of shape {y.shape}, but the model was trained on labels; pass labels, integers "
            f"(n,), or one-hot rows (n, {reading.outputs})"
        )
    if names and names != reading.class_names:
        if not reading.class_names:
            raise DataError(
                f"{where}: labels are text ({list_names(names)}), but those of the first fit were numbers 0 .. "
                f"{reading.outputs - 1}; pass numbers"
            )
        y = number_labels(np.asarray(names)[y], reading.class_names, where)
    numbers = [name for name in reading.class_names if name.lstrip("-").isdigit()]
    if not names and numbers and len(numbers) == reading.outputs and numbers != list(map(str, range(len(numbers)))):
        raise DataError(
            f"{where}: labels are numbers, but those of the first fit were the text {list_names(numbers)}, which stand "
            f"for classes 0 .. {reading.outputs - 1}; pass text, so that it is clear which is meant"
        )
    if y.shape[1:] != (() if reading.positions == 1 else (reading.positions,)):
        raise DataError(
            f"{where} has shape {y.shape}, but the model was trained on {reading.positions} labels per sample; "
            "pass that many"
        )
    check_labels(y, reading.outputs, where)
    return y


def as_labels(y: Array, reading: Reading) -> Array:
    """Labels, integers (n,), from another form in which they can be told: one-hot rows, one column, whole floats."""
    if reading.positions > 1 or not len(y):
        return y
    if y.shape[1:] == (reading.outputs,) and bool(((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all()):
        return np.asarray(y.argmax(1), dtype=np.int64)
    column = y.reshape(-1) if y.shape[1:] == (1,) else y
    if column.ndim == 1 and column.dtype.kind == "f" and bool((column == np.floor(column)).all()):
        return column.astype(np.int64)
    return column
