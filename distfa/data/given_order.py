"""The order that a loader gives: which sample is in every row of every batch of every epoch.

Rows are numbered through all epochs: if the first epoch has n rows, row n is the first of the second one. So the layer
that reads inputs and the layer that reads labels, each in its own process, know from a row's number alone which sample
it is.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distfa.errors import DataError

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class GivenOrder:
    """The samples of every epoch, batch by batch.

    Attributes:
        epochs: The sample in every row of every epoch; equal epochs are one array.
        batches: The rows of every batch of every epoch; equal ones are one tuple.
    """

    epochs: tuple[Indices, ...]
    batches: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(epochs: Iterable[Iterable[Sequence[int] | Indices]]) -> GivenOrder:
        """The order of batches of samples, epoch by epoch.

        Raises:
            DataError: An epoch has no batch, or a batch has no sample.
        """
        samples: list[Indices] = []
        sizes: list[tuple[int, ...]] = []
        for epoch in epochs:
            parts = [np.asarray(batch, np.int64) for batch in epoch]
            if not parts or not all(len(part) for part in parts):
                raise DataError(
                    f"epoch {len(samples) + 1} of the training data has "
                    f"{'an empty batch' if parts else 'no batch'}; every epoch needs at least one batch, and "
                    "every batch at least one sample (is drop_last on with fewer samples than a batch, or can "
                    "the data be read only once?)"
                )
            joined = np.concatenate(parts)
            rows = tuple(map(len, parts))
            samples.append(next((kept for kept in samples[-1:] if np.array_equal(kept, joined)), joined))
            sizes.append(next((kept for kept in sizes[-1:] if kept == rows), rows))
        return GivenOrder(tuple(samples), tuple(sizes))

    @property
    def rows(self) -> int:
        """Rows of the first epoch."""
        return len(self.epochs[0])

    @property
    def largest(self) -> int:
        """Rows of the largest batch."""
        return max(map(max, self.batches))

    @cached_property
    def used(self) -> Indices:
        """The samples that are in it, each once, in order."""
        found: Indices = np.unique(np.concatenate([np.unique(epoch) for epoch in self.epochs]))
        return found

    @cached_property
    def digest(self) -> str:
        """The digest of all of it."""
        found = hashlib.blake2b(repr(self.batches).encode(), digest_size=16)
        for epoch in self.epochs:
            found.update(epoch.tobytes())
        return found.hexdigest()

    @cached_property
    def _starts(self) -> Indices:
        return np.cumsum([0, *map(len, self.epochs)])

    @cached_property
    def _repeating(self) -> tuple[bool, ...]:
        return tuple(len(np.unique(epoch)) < len(epoch) for epoch in self.epochs)

    def repeats(self, epoch: int) -> bool:
        """Whether an epoch has a sample more than once."""
        return self._repeating[epoch]

    def places(self, rows: Indices) -> tuple[Indices, Indices]:
        """(epoch, place in the epoch) of rows."""
        epochs: Indices = np.searchsorted(self._starts, rows, side="right") - 1
        return epochs, rows - self._starts[epochs]

    def samples(self, rows: Indices) -> Indices:
        """The samples in rows."""
        epochs, places = self.places(rows)
        found = np.empty(len(rows), np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            found[here] = self.epochs[epoch][places[here]]
        return found

    def without_unused(self) -> GivenOrder:
        """The same order, of the samples by their places in ``used``."""
        return GivenOrder(tuple(np.searchsorted(self.used, epoch) for epoch in self.epochs), self.batches)

    def to_bytes(self) -> bytes:
        """All of it as an .npz file."""
        file = io.BytesIO()
        np.savez_compressed(
            file,
            samples=np.concatenate(self.epochs),
            batches=np.concatenate([np.asarray(sizes, np.int64) for sizes in self.batches]),
            epochs=np.asarray([len(sizes) for sizes in self.batches]),
        )
        return file.getvalue()

    @staticmethod
    def from_bytes(content: bytes) -> GivenOrder:
        """Read what ``to_bytes`` gave."""
        with np.load(io.BytesIO(content)) as file:
            sizes = np.split(file["batches"], np.cumsum(file["epochs"])[:-1])
            samples = np.split(file["samples"], np.cumsum([each.sum() for each in sizes])[:-1])
        return GivenOrder.of(np.split(s, np.cumsum(b)[:-1]) for s, b in zip(samples, sizes, strict=True))


class Ordered:
    """Behaves like an array of rows in a given order, as far as a run needs that.

    Args:
        values: Something for every sample.
        order: Which sample every row is.
    """

    def __init__(self, values: NDArray[Any], order: GivenOrder) -> None:
        self._values, self._order = values, order
        self.dtype, self.nbytes = values.dtype, values.nbytes
        self.shape = (order.rows, *values.shape[1:])

    def __len__(self) -> int:
        return self._order.rows

    def __getitem__(self, rows: Indices) -> NDArray[Any]:
        found: NDArray[Any] = self._values[self._order.samples(rows)]
        return found
