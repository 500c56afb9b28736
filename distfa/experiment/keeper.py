"""Keeps checkpoints as a run goes on, beside training, one at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from distfa.errors import CheckpointError, LayerError, LayerLost
from distfa.experiment.checkpoint import Checkpoint, Store
from distfa.runtime.worker import Snapshot

_SETTLE_SECONDS = 120.0
_LAST_SECONDS = 20.0  # before a run ends


class _Cut(NamedTuple):
    step: int
    snapshots: Iterable[Snapshot]
    notes: dict[str, Any]


class Keeper:
    """Writes cuts of the run to the store, in a thread of its own.

    A cut that comes too soon after the last one that was written, or while that is still being written, is passed over;
    with no least time between them every cut is written, and the run waits for it. The latest that was passed over is
    remembered, so that a run that has to end can still keep it. One that cannot be written is told of, and the next is
    tried.

    Args:
        store: Where to.
        least_seconds: Between two that are written.
        tell: Told in words what could not be written.
        note: Told what was.

    Attributes:
        written: Checkpoints of this process, whole.
    """

    def __init__(
        self, store: Store, *, least_seconds: float, tell: Callable[[str], None], note: Callable[[str], None]
    ) -> None:
        self._store, self._least_seconds, self._tell, self._note = store, least_seconds, tell, note
        self._thread: threading.Thread | None = None
        self._began = time.monotonic()
        self._passed_over: _Cut | None = None
        self.written = 0

    def offer(self, step: int, snapshots: Iterable[Snapshot], notes: dict[str, Any]) -> None:
        """A cut has come: begin to write it, or pass it over.

        Args:
            step: The next one.
            snapshots: Of every layer, in order; they may be taken later.
            notes: What else is to be kept.
        """
        cut = _Cut(step, snapshots, notes)
        if self._due():
            self._keep(cut)
        else:
            self._passed_over = cut

    def last(self) -> None:
        """The run has to end: write the latest cut, if it was passed over, within a deadline."""
        self.settle(_LAST_SECONDS)
        if self._passed_over is not None:
            self._keep(self._passed_over)
            self.settle(_LAST_SECONDS)

    def steps(self) -> list[int]:
        """The steps of all whole ones, the latest first."""
        return self._store.steps()

    def settle(self, limit_seconds: float = _SETTLE_SECONDS) -> None:
        """Wait until what is being written is whole or given up."""
        if self._thread is not None:
            self._thread.join(limit_seconds)

    def latest(self) -> Checkpoint | None:
        """The latest whole one; those that had to be refused are told of."""
        self.settle()
        self._passed_over = None  # the layers go on from another place
        for found in self._store.latest():
            if isinstance(found, Checkpoint):
                return found
            self._tell(f"{found}; the one before it is taken")
        return None

    def _due(self) -> bool:
        if not self._least_seconds:
            self.settle()  # every cut is asked for
        writing = self._thread is not None and self._thread.is_alive()
        return not writing and time.monotonic() - self._began >= self._least_seconds

    def _keep(self, cut: _Cut) -> None:
        self._began, self._passed_over = time.monotonic(), None
        name = f"distfa-checkpoint-{cut.step}"
        self._thread = threading.Thread(target=self._write, args=cut, name=name, daemon=True)
        self._thread.start()

    def _write(self, step: int, snapshots: Iterable[Snapshot], notes: dict[str, Any]) -> None:
        try:
            size = self._store.write(step, snapshots, notes)
        except CheckpointError as exc:
            self._tell(f"{exc}; training goes on, and the next checkpoint is tried")
            return
        except LayerLost:  # of which the run itself tells
            return
        except LayerError as exc:
            self._tell(f"the checkpoint of step {step} was not written: {exc}")
            return
        self.written += 1
        self._note(f"the checkpoint of step {step} is written, {size:,} bytes")
