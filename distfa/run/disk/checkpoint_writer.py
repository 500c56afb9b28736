"""Writes checkpoints as a run trains, in a thread of its own, one at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from distfa.errors import CheckpointError, LayerError, LayerLost
from distfa.run.disk.checkpoint import Checkpoint
from distfa.run.disk.shelf import Shelf
from distfa.runtime.hosted_layer import Snapshot

_SETTLE_SECONDS = 120.0


class _Unwritten(NamedTuple):
    step: int
    snapshots: Iterable[Snapshot]
    notes: dict[str, Any]
    remembered: Any


class CheckpointWriter:
    """Writes cuts of the run, in a thread of its own, one after another.

    A cut is skipped if it comes too soon after the last one that was written, or while that one is still being written.
    With ``least_seconds`` of 0 every cut is written, and the run waits for it. The latest skipped cut is remembered, so
    that a run that has to end can still write it. If a cut cannot be written, the next one is tried; of many in a row
    the first, the tenth and the hundredth are reported, and so is the next that is written.

    Args:
        shelf: Where to write.
        least_seconds: Least time between two checkpoints.
        tell: Called with what an operator should know, in words.
        note: Called with the rest, in words.

    Attributes:
        last_seconds: How long the last checkpoint before the end of a run may take.
        written: How many whole checkpoints this process wrote.
        last_step: The step of the last one; None without any.
    """

    last_seconds = 20.0

    def __init__(
        self, shelf: Shelf, *, least_seconds: float, tell: Callable[[str], None], note: Callable[[str], None]
    ) -> None:
        self._shelf, self._least_seconds, self._tell, self._note = shelf, least_seconds, tell, note
        self._thread: threading.Thread | None = None
        self._began = time.monotonic()
        self._passed_over: _Unwritten | None = None
        self._missed = 0  # in a row
        self._ending = False
        self.written = 0
        self.last_step: int | None = None

    def offer(self, step: int, snapshots: Iterable[Snapshot], notes: dict[str, Any], remembered: Any = None) -> None:
        """A cut has come: begin to write it, or skip it.

        Args:
            step: The next step.
            snapshots: The snapshots of all layers, in order; they may be taken later.
            notes: What else the run needs to continue.
            remembered: What callbacks remember, as a copy.
        """
        cut = _Unwritten(step, snapshots, notes, remembered)
        if self._is_due():
            self._start_writing(cut)
        else:
            self._passed_over = cut

    def write_last(self) -> None:
        """The run has to end: write the latest cut, if it was skipped, within a deadline.

        There is one writer at a time: if an earlier checkpoint is not whole by the deadline, that one is the last.
        """
        self._ending = True
        self.settle(self.last_seconds)
        if self._passed_over is None:
            return
        if self._is_writing():
            self._tell(
                f"the checkpoint of step {self._passed_over.step} is skipped: the previous one is still being "
                f"written after {self.last_seconds:.0f} s"
            )
            return
        self._start_writing(self._passed_over)
        self.settle(self.last_seconds)

    def steps(self) -> list[int]:
        """The steps of all whole checkpoints, latest first."""
        return self._shelf.steps()

    def settle(self, limit_seconds: float = _SETTLE_SECONDS) -> None:
        """Wait until what is being written is whole or has failed."""
        if self._thread is not None:
            self._thread.join(limit_seconds)

    def latest(self) -> Checkpoint | None:
        """The latest whole checkpoint; damaged ones are reported."""
        self.settle()
        self._passed_over, self._missed = None, 0  # the layers continue from another place
        for found in self._shelf.latest():
            if isinstance(found, Checkpoint):
                return found
            self._tell(f"{found}; trying an earlier one, if there is one")
        return None

    def _is_due(self) -> bool:
        if not self._least_seconds:
            self.settle()  # every cut is written
        return not self._is_writing() and time.monotonic() - self._began >= self._least_seconds

    def _is_writing(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _start_writing(self, cut: _Unwritten) -> None:
        self._began, self._passed_over = time.monotonic(), None
        name = f"distfa-checkpoint-{cut.step}"
        self._thread = threading.Thread(target=self._write, args=cut, name=name, daemon=True)
        self._thread.start()

    def _write(self, step: int, snapshots: Iterable[Snapshot], notes: dict[str, Any], remembered: Any) -> None:
        try:
            size = self._shelf.write(step, snapshots, notes, remembered)
        except CheckpointError as exc:
            self._miss(str(exc))
        except LayerLost:  # the run itself reports these
            return
        except LayerError as exc:
            self._miss(f"the checkpoint of step {step} was not written: {exc}")
        except Exception as exc:  # of Ray, safetensors or a full memory: nobody else would hear of it
            self._miss(f"the checkpoint of step {step} was not written: {type(exc).__name__}: {exc}")
        else:
            self.written, self.last_step = self.written + 1, step
            said = f"wrote the checkpoint of step {step}, {size:,} bytes"
            if self._missed:
                self._tell(f"{said}; {self._missed} before it could not be written")
            else:
                self._note(said)
            self._missed = 0

    def _miss(self, why: str) -> None:
        self._missed += 1
        row = f" ({self._missed} in a row)" if self._missed > 1 else ""
        if self._ending:
            self._tell(f"{why}{row}")
            return
        said = f"{why}{row}; training continues, and the next checkpoint will be tried"
        if str(self._missed).rstrip("0") == "1":  # 1, 10, 100 ...
            self._tell(said)
        else:
            self._note(said)
