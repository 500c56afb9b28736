"""A layer's timeline: what it did and when, in a few steps of the run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from distfa.core.books.records import Span, TimelineRecord
from distfa.core.schedule import Operation

FIRST, STEPS = 20, 3  # after the first steps, and between entries in the books


class Timeline:
    """Records the operations of ``STEPS`` steps from ``FIRST`` on; in a shorter run those of the last steps.

    Args:
        layer: The number of the layer.
        steps: How many steps the whole run has.
        busy_seconds: How long the layer has computed so far.
    """

    def __init__(self, layer: int, steps: int, busy_seconds: Callable[[], float]) -> None:
        first = min(FIRST, max(0, steps - STEPS))
        self._layer, self._window, self._busy_seconds = layer, range(first, first + STEPS), busy_seconds
        self._spans: list[Span] = []

    @contextmanager
    def span(self, operation: Operation) -> Iterator[None]:
        """Record one operation, if it belongs to these steps."""
        if operation.batch.step not in self._window:
            yield
            return
        start, busy = time.time(), self._busy_seconds()
        yield
        end = time.time()
        self._spans.append(
            Span(
                operation=type(operation).__name__.lower(),
                step=operation.batch.step,
                micro_batch=getattr(operation, "micro_batch", None),
                start=start,
                end=end,
                waited=max(0.0, end - start - (self._busy_seconds() - busy)),
            )
        )

    def record(self) -> TimelineRecord:
        """The record so far."""
        return TimelineRecord(layer=self._layer, spans=tuple(self._spans))
