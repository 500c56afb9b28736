"""The form of every data set, and the rules it must obey before a run may read it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distfa.data.checks import check_finite, check_labels, check_positions, check_tokens
from distfa.data.given_order import GivenOrder
from distfa.data.reading import Reading
from distfa.errors import DataError

Array = NDArray[Any]

INPUT_DTYPES = (np.dtype(np.uint8), np.dtype(np.float32), np.dtype(np.float64))
TOKEN_DTYPES = (np.dtype(np.uint8), np.dtype(np.int32), np.dtype(np.int64))
TARGET_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Raw samples in memory; inputs become (x - mean) / std only when a batch is read.

    Attributes:
        name: What messages and reports call it.
        train_x: (N, d) C-contiguous, one flattened sample per row, uint8, float32 or float64; tokens are
            uint8, int32 or int64.
        train_y: Labels 0 .. outputs - 1, int64 (N,), or (N, T) if samples are sequences of T positions that each have a
            label; or (N, outputs) float targets.
        test_x: (M, d), as ``train_x``; M may be 0.
        test_y: As ``train_y``.
        outputs: Number of classes, or width of the float targets.
        mean: (1,) or (d,) float64, in raw units; 0 for tokens.
        std: As ``mean``, above 0; 1 for tokens.
        shape: Shape of one sample before flattening, such as (1, 28, 28) or (64,).
        tokens: Size of the vocabulary, if inputs are integers 0 .. tokens - 1 that stand for symbols; None if they are
            quantities.
        source: Which edition of the data this is, if the name alone does not say it.
        class_names: What labels stand for, by number; empty if unknown.
        vocabulary: What tokens stand for, by number; empty if unknown.
        columns: Names of the input columns, if the samples are rows of a table.
        target: The column of the table that is learned.
        order: Which training sample is in every row of every batch, if a loader says it; None: drawn from the seed.
        sampled: What the loader's own sampler gave, where it cannot be had again.
        measured: Whether ``mean`` and ``std`` were measured on the training samples.
        fixed: The reading that an earlier fit fixed; None if nothing was trained before.
        shards: Samples in every shard of the training data, whose order is then drawn shard by shard
            (``core.base.windows``); empty: drawn over all samples.
        loaded: What ``load`` was asked for, by the keys of a spec's ``data``; empty for samples that have no name.
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
    tokens: int | None = None
    source: str = ""
    class_names: tuple[str, ...] = ()
    vocabulary: tuple[str, ...] = ()
    loaded: Mapping[str, Any] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    target: str | None = None
    order: GivenOrder | None = None
    sampled: GivenOrder | None = None
    measured: bool = False
    fixed: Reading | None = None
    shards: tuple[int, ...] = ()

    @cached_property
    def digest(self) -> str:
        """The digest of all samples and targets: equal for equal data, on any machine."""
        found = hashlib.blake2b(digest_size=16)
        for array in (self.train_x, self.train_y, self.test_x, self.test_y, self.mean, self.std):
            found.update(f"{array.dtype.str} {array.shape};".encode())
            made = getattr(array, "digest", None)  # the digest of samples that are made when they are read
            found.update(np.ascontiguousarray(array).data if made is None else made.encode())
        if self.order is not None:
            found.update(self.order.digest.encode())
        return found.hexdigest()

    def take(self, train: Any, test: Any) -> Dataset:
        """Some samples of each split, by their rows: numbers, a mask or a slice."""
        return replace(
            self,
            train_x=self.train_x[train],
            train_y=self.train_y[train],
            test_x=self.test_x[test],
            test_y=self.test_y[test],
            shards=(),
        )

    def scaled(self, mean: float, std: float) -> Dataset:
        """The same samples, which become inputs by these figures.

        Raises:
            DataError: They are tokens, which are used as they are.
        """
        scaled = replace(self, mean=np.array([mean]), std=np.array([std]), measured=False)
        if not isinstance(self.train_x, np.ndarray):  # the samples were checked when they were indexed
            check_scale(scaled)
            return scaled
        return validate(scaled)

    @property
    def epoch_rows(self) -> int:
        """Training rows of an epoch; of the first one, if a loader gives them."""
        return len(self.train_x) if self.order is None else self.order.rows

    @cached_property
    def reading(self) -> Reading:
        """The way from raw samples to a network's inputs, and from its outputs to answers."""
        return Reading.of(self) if self.fixed is None else self.fixed

    @property
    def features(self) -> int:
        """Width d of a flattened sample."""
        return int(self.train_x.shape[1])

    @property
    def classification(self) -> bool:
        """Whether the targets are class labels, one per sample or one per position."""
        return self.train_y.dtype.kind != "f"

    @property
    def positions(self) -> int:
        """Labels per sample: T if every position of a sequence has one, otherwise 1."""
        return int(self.train_y.shape[1]) if self.classification and self.train_y.ndim > 1 else 1


def validate(dataset: Dataset) -> Dataset:
    """Return ``dataset`` itself after checking that it obeys every rule.

    Integer inputs that are not tokens are not scanned; float inputs and targets are, once.

    Raises:
        DataError: A rule is broken; the message has the first one and the value that broke it.
    """
    name = dataset.name
    if len(dataset.train_x) == 0:
        raise DataError(f"{name}: the train split is empty; a run needs at least one training sample")
    for split, x, y in _splits(dataset):
        _check_inputs(x, dataset.tokens, f"{name} {split}_x")
        if len(x) != len(y):
            raise DataError(
                f"{name}: {split}_x has {len(x)} samples but {split}_y has {len(y)}; every sample needs one target"
            )
    _check_widths(dataset)
    for split, x, y in _splits(dataset):
        check_finite(x, f"{name} {split}_x")
        if dataset.tokens is not None:
            check_tokens(x, dataset.tokens, f"{name} {split}_x")
        _check_targets(y, dataset, f"{name} {split}_y")
    check_scale(dataset)
    return dataset


def _splits(dataset: Dataset) -> tuple[tuple[str, Array, Array], ...]:
    return ("train", dataset.train_x, dataset.train_y), ("test", dataset.test_x, dataset.test_y)


def _check_inputs(x: Array, tokens: int | None, where: str) -> None:
    if tokens is not None and x.dtype not in TOKEN_DTYPES:
        raise DataError(f"{where} is {x.dtype}; tokens must be uint8, int32 or int64: convert with astype")
    if tokens is None and x.dtype not in INPUT_DTYPES:
        raise DataError(
            f"{where} is {x.dtype}; inputs must be uint8, float32 or float64: convert with astype, or give "
            "tokens= if the integers stand for symbols"
        )
    if x.ndim != 2 or x.shape[1] == 0:
        raise DataError(f"{where} has shape {x.shape}; it must be (samples, features) with at least one feature")
    if not x.flags.c_contiguous:
        raise DataError(f"{where} is not C-contiguous; convert it with numpy.ascontiguousarray")


def _check_widths(dataset: Dataset) -> None:
    train, test = dataset.features, int(dataset.test_x.shape[1])
    if train != test:
        raise DataError(
            f"{dataset.name}: train_x has {train} features but test_x has {test}; both splits must have the same number"
        )
    if math.prod(dataset.shape) != train:
        raise DataError(
            f"{dataset.name}: sample shape {dataset.shape} holds {math.prod(dataset.shape)} values but train_x "
            f"has {train} features; they must agree"
        )


def _check_targets(y: Array, dataset: Dataset, where: str) -> None:
    train_y = dataset.train_y
    if y.ndim != train_y.ndim or (y.ndim > 1 and (y.dtype.kind == "f") != (train_y.dtype.kind == "f")):
        raise DataError(
            f"{where} is {y.dtype} of shape {y.shape} but train_y is {train_y.dtype} of shape {train_y.shape}; "
            "both must be labels, or both float targets (n, outputs)"
        )
    if y.ndim > 2:
        raise DataError(f"{where} has shape {y.shape}; targets must be labels (n,) or (n, T), or floats (n, outputs)")
    if y.ndim == 1 or y.dtype.kind != "f":
        if y.dtype != np.int64:
            raise DataError(f"{where} is {y.dtype}; class labels must be int64: convert with astype")
        if y.ndim == 2:
            check_positions(y, dataset.shape, dataset.tokens, where)
        check_labels(y, dataset.outputs, where)
        return
    if y.dtype not in TARGET_DTYPES:
        raise DataError(f"{where} is {y.dtype}; targets must be float32 or float64: convert with astype")
    if y.shape[1] != dataset.outputs or dataset.outputs < 1:
        raise DataError(f"{where} has shape {y.shape}; targets for {dataset.outputs} outputs must be (n, outputs)")
    check_finite(y, where)


def check_scale(dataset: Dataset) -> None:
    """Refuse a mean and std by which no inputs can be scaled.

    Raises:
        DataError: They are of another form than a data set has, or std is 0.
    """
    if dataset.tokens is not None and ((dataset.mean != 0).any() or (dataset.std != 1).any()):
        raise DataError(
            f"{dataset.name}: tokens are used as they are, so mean must be 0 and std 1, "
            f"not {dataset.mean} and {dataset.std}"
        )
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
            f"{dataset.name}: mean has shape {dataset.mean.shape} but std has {dataset.std.shape}; they must be "
            "the same"
        )
    if (dataset.std <= 0).any():
        column = int(np.argmax(dataset.std <= 0))
        raise DataError(
            f"{dataset.name}: std is {dataset.std[column]} at column {column}; it must be above 0 "
            "(0 means the inputs do not vary)"
        )
