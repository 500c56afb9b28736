"""The order of rows in shards: a few shards at a time, so that a reader holds no more than those.

An epoch goes through all shards in an order that the seed draws, window by window, and shuffles the rows of each. Any
place in it can be found from (seed, epoch) alone, so a run resumes there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distfa.core.base.draw import Purpose, generator

_SHARDS, _ROWS = 1, 2  # parts of the stream of an order; 0 is that of an order over all rows
_MOST_WINDOWS = 1 << 24


class WindowedRows:
    """The rows of one epoch; one window of them is in memory.

    Args:
        shards: Rows of every shard.
        window: How many shards are shuffled together.
        seed: The run's.
        epoch: Counted from 0.
    """

    def __init__(self, shards: Sequence[int], window: int, *, seed: int, epoch: int) -> None:
        self._seed, self._epoch = seed, epoch
        self._starts, self._sizes = np.cumsum([0, *shards]), np.asarray(shards, np.int64)
        drawn = generator(seed, Purpose.ORDER, epoch, _SHARDS).permutation(len(shards))
        self._windows = [drawn[at : at + window] for at in range(0, len(drawn), window)]
        self._ends = np.cumsum([self._sizes[each].sum() for each in self._windows])
        self._open, self._rows = -1, np.empty(0, np.int64)

    def __getitem__(self, wanted: slice) -> NDArray[np.int64]:
        first, stop = wanted.start, min(wanted.stop, int(self._ends[-1]))
        parts = []
        while first < stop:
            number = int(np.searchsorted(self._ends, first, side="right"))
            rows, begin = self._window(number), int(self._ends[number - 1]) if number else 0
            parts.append(rows[first - begin : stop - begin])
            first = int(self._ends[number])
        return np.concatenate(parts)

    def _window(self, number: int) -> NDArray[np.int64]:
        if number != self._open:
            rows = np.concatenate([np.arange(self._starts[s], self._starts[s + 1]) for s in self._windows[number]])
            place = self._epoch * _MOST_WINDOWS + number
            self._open, self._rows = number, generator(self._seed, Purpose.ORDER, place, _ROWS).permutation(rows)
        return self._rows
