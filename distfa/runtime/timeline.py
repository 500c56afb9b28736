"""A layer's timeline: what it did and when, in a few steps of the run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from distfa.core.books.records import Span, TimelineRecord
from distfa.core.schedule import Operation
from distfa.transport.port import Waiting

FIRST, STEPS = 20, 3  # after the first steps, and between entries in the books


class Timeline:
    """Records the operations of ``STEPS`` steps from ``FIRST`` on; in a shorter run those of the last steps.

    Args:
        layer: The number of the layer.
        steps: How many steps the whole run has.
        waiting: The layer's waits.
    """

    def __init__(self, layer: int, steps: int, waiting: Waiting) -> None:
        first = min(FIRST, max(0, steps - STEPS))
        self._layer, self._window, self._waiting = layer, range(first, first + STEPS), waiting
        self._spans: list[Span] = []

    @contextmanager
    def span(self, operation: Operation) -> Iterator[None]:
        """Record one operation, if it belongs to these steps."""
        if operation.batch.step not in self._window:
            yield
            return
        start, waited = time.time(), self._waiting.total_seconds
        yield
        self._spans.append(
            Span(
                operation=type(operation).__name__.lower(),
                step=operation.batch.step,
                micro_batch=getattr(operation, "micro_batch", None),
                start=start,
                end=time.time(),
                waited=self._waiting.total_seconds - waited,
            )
        )

    def record(self) -> TimelineRecord:
        """What was recorded."""
        return TimelineRecord(layer=self._layer, spans=tuple(self._spans))
