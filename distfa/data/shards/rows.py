"""Rows of shards, read when they are asked for. A few shards stay in memory, however many there are."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np

from distfa.data.build import to_inputs, to_labels
from distfa.data.dataset import Array
from distfa.data.reading import InputSummary
from distfa.data.shards.files import ShardFiles
from distfa.data.shards.formats import INPUTS, LABELS
from distfa.data.shards.index import SplitIndex
from distfa.errors import DataError

_FEW = 8
_CHANGED = "the file has changed; delete the index and start a new run"


class ShardRows:
    """Behaves like an array of rows, as far as a run needs that.

    Each process reads for itself, since what is in memory does not travel.

    Args:
        files: Where the shards are.
        index: Those of one split.
        want: ``INPUTS`` or ``LABELS``.
        shape: Shape of one row.
        dtype: Of the rows.
        window: How many shards stay in memory.
    """

    nbytes = 0  # in the process that only describes them

    def __init__(
        self, files: ShardFiles, index: SplitIndex, want: str, *, shape: tuple[int, ...], dtype: str, window: int
    ) -> None:
        self._files, self._names, self._want, self._window = files, index.files, want, window
        self._starts = np.cumsum([0, *index.rows])
        self.dtype, self.shape = np.dtype(dtype), (int(self._starts[-1]), *shape)
        self.ndim, self.size = len(self.shape), int(np.prod(self.shape))
        self.digest = f"{index.digest} {want}"
        self._read: OrderedDict[int, Array] = OrderedDict()  # the latest last

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_read": OrderedDict()}

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Array:
        if not isinstance(rows, np.ndarray) or rows.dtype.kind != "i" or (rows < 0).any():
            rows = np.arange(len(self))[rows]  # a slice, a mask, a list, numbers from the end
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        for shard in dict.fromkeys(shards.tolist()):
            here = shards == shard
            found[here] = self._shard(shard)[rows[here] - self._starts[shard]]
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """All rows in memory."""
        return self[np.arange(len(self))].astype(dtype or self.dtype, copy=False)

    def _shard(self, number: int) -> Array:
        if number in self._read:
            self._read.move_to_end(number)
            return self._read[number]
        while len(self._read) >= self._window:
            self._read.popitem(last=False)
        name = self._names[number]
        raw, where = self._files.read(name, self._want), f"shard {name}: {self._want}"
        rows = to_inputs(raw, None, where) if self._want == INPUTS else to_labels(raw, where)
        wanted = int(self._starts[number + 1] - self._starts[number])
        if (rows.shape, rows.dtype) != ((wanted, *self.shape[1:]), self.dtype):
            raise DataError(
                f"{where} are {rows.dtype} of shape {rows.shape}, but the index beside the shards says {self.dtype} of "
                f"shape {(wanted, *self.shape[1:])}: {_CHANGED}"
            )
        self._require_known(rows, where)
        self._read[number] = rows
        return rows

    def _require_known(self, rows: Array, where: str) -> None:
        """Refuse rows that the index has not seen."""


class ShardInputs(ShardRows):
    """Inputs (n, d), with what is known of them.

    Attributes:
        raw: What they look like before they are normalised.
    """

    def __init__(self, files: ShardFiles, index: SplitIndex, *, raw: InputSummary, **form: Any) -> None:
        super().__init__(files, index, INPUTS, **form)
        self.raw = raw

    @property
    def few(self) -> Array:
        """The first of them."""
        return self[np.arange(min(_FEW, len(self)))]


class ShardLabels(ShardRows):
    """Labels (n,), with what is known of them.

    Attributes:
        counts: How often each occurs.
    """

    def __init__(self, files: ShardFiles, index: SplitIndex, *, window: int) -> None:
        super().__init__(files, index, LABELS, shape=(), dtype="int64", window=window)
        self.counts = np.array(index.counts, np.int64)

    def _require_known(self, rows: Array, where: str) -> None:
        if not 0 <= rows.min() <= rows.max() < len(self.counts):
            raise DataError(
                f"{where} are {rows.min()} to {rows.max()}, but the index beside the shards says at most "
                f"{len(self.counts) - 1}: {_CHANGED}"
            )

    def min(self) -> int:
        """The smallest label."""
        return int(np.argmax(self.counts > 0))
