"""The one form every data set takes, and the rules it must meet before a run may read it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distfa.errors import DataError

Array = NDArray[Any]

INPUT_DTYPES = (np.dtype(np.uint8), np.dtype(np.float32), np.dtype(np.float64))
TARGET_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Raw samples in memory; inputs become (x - mean) / std only when a batch is read.

    Attributes:
        name: What messages and reports call it.
        train_x: (N, d) C-contiguous, one flattened sample per row, uint8, float32 or float64.
        train_y: (N,) int64 labels 0 .. outputs - 1, or (N, outputs) float targets.
        test_x: (M, d), as ``train_x``; M may be 0.
        test_y: (M,) or (M, outputs), as ``train_y``.
        outputs: Number of classes, or width of the float targets.
        mean: (1,) or (d,) float64, in raw units.
        std: As ``mean``, above 0.
        shape: Of one sample before flattening, such as (1, 28, 28) or (64,).
    """

    name: str
    train_x: Array
    train_y: Array
    test_x: Array
    test_y: Array
    outputs: int
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    shape: tuple[int, ...]

    @property
    def features(self) -> int:
        """Width d of a flattened sample."""
        return int(self.train_x.shape[1])

    @property
    def classification(self) -> bool:
        """Whether the targets are class labels."""
        return self.train_y.ndim == 1


def validate(dataset: Dataset) -> Dataset:
    """Return ``dataset`` itself once it is known to meet every rule.

    Integer inputs are not scanned; float inputs and targets are, once.

    Raises:
        DataError: The first rule that is broken, with the value that broke it.
    """
    name = dataset.name
    if len(dataset.train_x) == 0:
        raise DataError(f"{name}: the train split is empty; a run needs at least one training sample")
    for split, x, y in _splits(dataset):
        _check_inputs(x, f"{name} {split}_x")
        if len(x) != len(y):
            raise DataError(
                f"{name}: {split}_x has {len(x)} samples and {split}_y has {len(y)}; every sample needs one target"
            )
    _check_widths(dataset)
    for split, x, y in _splits(dataset):
        check_finite(x, f"{name} {split}_x")
        _check_targets(y, dataset, f"{name} {split}_y")
    _check_scale(dataset)
    return dataset


def check_finite(values: Array, where: str) -> None:
    """Refuse NaN and infinity; integer arrays pass without a scan.

    Args:
        values: (n, width).
        where: What the message calls the array.

    Raises:
        DataError: With the count and the place of the first one.
    """
    if values.dtype.kind != "f":
        return
    finite = np.isfinite(values)
    if finite.all():
        return
    row, column = divmod(int(np.argmin(finite)), values.shape[1])
    count = int(values.size - np.count_nonzero(finite))
    raise DataError(
        f"{where} holds NaN or infinity in {count} of {values.size} values, "
        f"the first ({values[row, column]}) at row {row}, column {column}; "
        "drop those rows or replace the values"
    )


def check_labels(labels: Array, outputs: int, where: str) -> None:
    """Refuse labels outside 0 .. outputs - 1.

    Args:
        labels: (n,) of an integer dtype.
        outputs: Number of classes.
        where: What the message calls the array.

    Raises:
        DataError: With the first such label, its row and the allowed range.
    """
    if len(labels) == 0 or (labels.min() >= 0 and labels.max() < outputs):
        return
    row = int(np.argmax((labels < 0) | (labels >= outputs)))
    raise DataError(
        f"{where} has label {labels[row]} at row {row}; "
        f"labels must be 0 .. {outputs - 1} for {outputs} classes; "
        "renumber them or raise the number of classes"
    )


def _splits(dataset: Dataset) -> tuple[tuple[str, Array, Array], ...]:
    return ("train", dataset.train_x, dataset.train_y), ("test", dataset.test_x, dataset.test_y)


def _check_inputs(x: Array, where: str) -> None:
    if x.dtype not in INPUT_DTYPES:
        raise DataError(f"{where} is {x.dtype}; inputs must be uint8, float32 or float64: convert with astype")
    if x.ndim != 2 or x.shape[1] == 0:
        raise DataError(f"{where} has shape {x.shape}; it must be (samples, features) with at least one feature")
    if not x.flags.c_contiguous:
        raise DataError(f"{where} is not C-contiguous; pass it through numpy.ascontiguousarray")


def _check_widths(dataset: Dataset) -> None:
    train, test = dataset.features, int(dataset.test_x.shape[1])
    if train != test:
        raise DataError(
            f"{dataset.name}: train_x has {train} features and test_x has {test}; both splits must have the same"
        )
    if math.prod(dataset.shape) != train:
        raise DataError(
            f"{dataset.name}: sample shape {dataset.shape} holds {math.prod(dataset.shape)} values "
            f"and train_x has {train} features; they must agree"
        )


def _check_targets(y: Array, dataset: Dataset, where: str) -> None:
    if y.ndim != dataset.train_y.ndim:
        raise DataError(
            f"{where} has shape {y.shape} and train_y {dataset.train_y.shape}; both must be labels (n,) "
            "or both targets (n, outputs)"
        )
    if y.ndim == 1:
        if y.dtype != np.int64:
            raise DataError(f"{where} is {y.dtype}; class labels must be int64: convert with astype")
        check_labels(y, dataset.outputs, where)
    elif y.ndim == 2:
        if y.dtype not in TARGET_DTYPES:
            raise DataError(f"{where} is {y.dtype}; targets must be float32 or float64: convert with astype")
        if y.shape[1] != dataset.outputs or dataset.outputs < 1:
            raise DataError(f"{where} has shape {y.shape}; targets for {dataset.outputs} outputs must be (n, outputs)")
        check_finite(y, where)
    else:
        raise DataError(f"{where} has shape {y.shape}; targets must be labels (n,) or floats (n, outputs)")


def _check_scale(dataset: Dataset) -> None:
    for label, value in (("mean", dataset.mean), ("std", dataset.std)):
        if value.dtype != np.float64 or value.shape not in ((1,), (dataset.features,)):
            raise DataError(
                f"{dataset.name}: {label} is {value.dtype} of shape {value.shape}; "
                f"it must be float64 of shape (1,) or ({dataset.features},)"
            )
        if not np.isfinite(value).all():
            raise DataError(f"{dataset.name}: {label} holds NaN or infinity; rescale the inputs and compute it again")
    if dataset.mean.shape != dataset.std.shape:
        raise DataError(
            f"{dataset.name}: mean has shape {dataset.mean.shape} and std {dataset.std.shape}; they must be the same"
        )
    if (dataset.std <= 0).any():
        column = int(np.argmax(dataset.std <= 0))
        raise DataError(
            f"{dataset.name}: std is {dataset.std[column]} at column {column}; it must be above 0 "
            "(0 means the inputs do not vary)"
        )
