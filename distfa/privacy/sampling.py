"""Poisson sampling: in each step every sample takes part with the same probability, by itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distfa.privacy.stream import Stream

_ALL = 1 << 64


def draw_batches(stream: Stream, *, samples: int, expected: int, steps: int) -> list[NDArray[np.int64]]:
    """The samples of every step, in ascending order; some steps may have none.

    Args:
        stream: What is drawn from.
        samples: N, the size of the training set.
        expected: q N; the probability is rounded down to a multiple of 2^-64.
        steps: How many.
    """
    if expected >= samples:
        return [np.arange(samples)] * steps
    below = np.uint64(_ALL * expected // samples)
    return [np.flatnonzero(stream.integers(step, samples) < below) for step in range(steps)]
