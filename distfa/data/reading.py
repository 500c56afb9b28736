"""The meaning of data to a network that was trained on them: fixed by the first fit, kept with the weights.

Made here, by ``Reading.of``; applied in ``conform.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from distfa.errors import DataError

if TYPE_CHECKING:
    from distfa.data.dataset import Array, Dataset

_ROWS, _KEPT = 1000, 8  # samples that are looked at, spread evenly; those that are kept of samples that are made


class InputSummary(NamedTuple):
    """A summary of the training inputs.

    Attributes:
        mean: Of all values as the network got them.
        std: As ``mean``.
        largest: Largest absolute value before normalisation.
    """

    mean: float
    std: float
    largest: float


class InputSummarizer:
    """Adds up what inputs look like, sample by sample."""

    def __init__(self) -> None:
        self._count, self._sum, self._squares, self._largest = 0, 0.0, 0.0, 0.0
        self._few: list[Array] = []

    def add(self, x: Array) -> None:
        """Add one sample (d,)."""
        if len(self._few) < _KEPT:
            self._few.append(x.copy())
        values = x.astype(np.float32, copy=False)
        self._count += values.size
        self._sum += float(values.sum(dtype=np.float64))
        self._squares += float(values @ values)
        self._largest = max(self._largest, float(values.max(initial=0.0)), -float(values.min(initial=0.0)))

    def few(self) -> Array:
        """The first of them, (n, d)."""
        return np.stack(self._few)

    def summary(self) -> InputSummary:
        """The summary of those that were added."""
        mean = self._sum / max(self._count, 1)
        return InputSummary(mean, math.sqrt(max(self._squares / max(self._count, 1) - mean**2, 0.0)), self._largest)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How raw samples become a network's inputs, and its outputs answers.

    Attributes:
        shape: Shape of one sample as the network takes it, channels first for a convolution.
        dtype: Of raw inputs: uint8, float32 or float64; for tokens an integer type.
        mean: One number, or one per value of a sample, in raw units; inputs are (x - mean) / std.
        std: As ``mean``.
        outputs: Number of classes, or width of the float targets.
        tokens: Size of the vocabulary, if inputs are integers that stand for symbols, else None.
        labels: Whether targets are labels, not quantities or shares.
        positions: Labels of one sample: T if every position of a sequence has one, else 1.
        columns: Names of the input columns of a table, in order; empty if samples came without names.
        target: The column of a table that is learned, if there is one.
        class_names: What labels stand for, by number; empty if unknown.
        vocabulary: What tokens stand for, by number; empty if unknown.
        seen: What training inputs looked like; None for tokens, or if unknown.
    """

    shape: tuple[int, ...]
    dtype: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    outputs: int
    tokens: int | None = None
    labels: bool = True
    positions: int = 1
    columns: tuple[str, ...] = ()
    target: str | None = None
    class_names: tuple[str, ...] = ()
    vocabulary: tuple[str, ...] = ()
    seen: InputSummary | None = None

    @classmethod
    def of(cls, dataset: Dataset) -> Reading:
        """The reading of a data set that nothing was trained on before."""
        return cls(
            shape=dataset.shape,
            dtype=str(dataset.train_x.dtype),
            mean=tuple(dataset.mean.tolist()),
            std=tuple(dataset.std.tolist()),
            tokens=dataset.tokens,
            outputs=dataset.outputs,
            labels=dataset.classification,
            positions=dataset.positions,
            columns=dataset.columns,
            target=dataset.target,
            class_names=dataset.class_names,
            vocabulary=dataset.vocabulary,
            seen=None if dataset.tokens is not None else _summarize_inputs(dataset),
        )

    @classmethod
    def of_dict(cls, kept: Mapping[str, Any]) -> Reading:
        """The reading that ``as_dict`` gave, also after it was JSON.

        Raises:
            DataError: Something is missing.
        """
        known = {field.name for field in fields(cls)}
        kept = {key: value for key, value in kept.items() if key in known}
        if lacking := [name for name in ("shape", "dtype", "mean", "std", "outputs") if name not in kept]:
            raise DataError(f"the record of how data were read is incomplete ({', '.join(lacking)} missing)")
        lists = {key: tuple(value) for key, value in kept.items() if isinstance(value, list)}
        seen = kept.get("seen")
        return cls(**{**kept, **lists, "seen": None if seen is None else InputSummary(**seen)})

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        found = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {**found, "seen": None if self.seen is None else self.seen._asdict()}


def some_rows(x: Array) -> Array:
    """Some rows of (n, d), spread evenly; of samples that are made, those that were kept when all were made once."""
    if not isinstance(x, np.ndarray):
        few: Array = x.few
        return few
    return x[np.linspace(0, max(len(x) - 1, 0), min(len(x), _ROWS)).astype(np.int64)]


def _summarize_inputs(dataset: Dataset) -> InputSummary | None:
    raw: InputSummary | None = getattr(dataset.train_x, "raw", None)  # of samples in shards
    if raw is not None:
        mean, std = float(dataset.mean[0]), float(dataset.std[0])
        return InputSummary((raw.mean - mean) / std, raw.std / std, raw.largest)
    kept: InputSummary | None = getattr(dataset.train_x, "seen", None)  # of samples that are made when they are read
    if kept is not None or not isinstance(dataset.train_x, np.ndarray):
        return kept
    rows = some_rows(dataset.train_x).astype(np.float64)
    read = (rows - dataset.mean) / dataset.std
    return InputSummary(float(read.mean()), float(read.std()), float(np.abs(rows).max(initial=0.0)))
