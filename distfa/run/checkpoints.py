"""Where a run can continue: its checkpoints, and what callbacks knew there."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from functools import partial
from typing import Any

from distfa.errors import CheckpointError, RunDirError
from distfa.run import notes
from distfa.run.bookkeeper import Bookkeeper
from distfa.run.disk.checkpoint import Checkpoint
from distfa.run.disk.checkpoint_writer import CheckpointWriter
from distfa.run.disk.run_dir import RunDir
from distfa.run.disk.shelf import shelf_of
from distfa.run.observing import Observer, StatefulObserver
from distfa.runtime.hosted_layer import Snapshot
from distfa.settings import RunSpec
from distfa.text.redact import redact


class RunCheckpoints:
    """The places of one run between two steps, where it can continue.

    Args:
        spec: The run's, as it is now.
        run_dir: Its directory.
        identity: ``notes.identify_run`` of the run.
        observer: Sees the run; if it is a ``StatefulObserver``, its state goes into checkpoints.
        books: Told, in words, what becomes of checkpoints.

    Raises:
        CheckpointError: The directory is a copy, and the original writes its checkpoints to the same place.
    """

    def __init__(
        self, spec: RunSpec, run_dir: RunDir, identity: dict[str, Any], observer: Observer, books: Bookkeeper
    ) -> None:
        self._run_dir, self._identity, self._tell = run_dir, identity, books.tell
        self._elsewhere = spec.checkpoint.dir is not None
        began = run_dir.read_spec() if run_dir.about["attempt"] > 1 else spec
        if self._elsewhere and run_dir.original and redact(str(spec.checkpoint.dir)) == began.checkpoint.dir:
            raise CheckpointError(
                f"{run_dir.path} is a copy of the run in {run_dir.original}, and both would write their checkpoints to "
                f"{began.checkpoint.dir}; resume one and remove the other, or set checkpoint.dir to another place for "
                "the copy"
            )
        self._shelf = shelf_of(
            run_dir.path,
            run_dir.about,
            asked=spec.checkpoint.dir,
            began_with=began.checkpoint.dir,
            keep=spec.checkpoint.keep,
            same=partial(notes.is_same_run, identity),
        )
        self._writer = CheckpointWriter(
            self._shelf, least_seconds=spec.checkpoint.seconds, tell=books.tell, note=books.log
        )
        self._stateful = observer if isinstance(observer, StatefulObserver) else None
        self._remembered: Any = None

    # -- checkpoints ----------------------------------------------------------------------------

    def find(self) -> Checkpoint | None:
        """The last whole checkpoint; None if none has been written.

        Raises:
            CheckpointError: One has been written, and there is none now; or it is of another spec, model or data.
        """
        found = self._writer.latest()
        if found is None:
            self._require_none_written()
            return None
        notes.require_same_run(self._identity, found.notes, self._run_dir.path)
        if found.memory is not None:
            self._remembered = found.memory
        elif self._stateful is not None:
            self._tell(f"the checkpoint of step {found.step} has no callbacks or history: they start afresh there")
        return found

    def resume(self, start: str | None) -> Checkpoint | None:
        """The last whole checkpoint of a run that resumes; None to begin it anew, if none has been written.

        Args:
            start: ``Subject.start_digest`` as it is now.

        Raises:
            CheckpointError: As ``find``; or it would begin anew from another spec, model, data or weights.
        """
        found = self.find()
        if found is None:
            notes.require_same_run(self._identity, notes.began_with(self._run_dir), self._run_dir.path)
            notes.require_same_start(start, self._run_dir)
            self._run_dir.rewind(0, 0)
        return found

    def offer(self, step: int, snapshots: Iterable[Snapshot], noted: dict[str, Any]) -> None:
        """A cut has come: ``CheckpointWriter.offer``, with whose it is and what callbacks know."""
        self._writer.offer(step, snapshots, self._identity | noted, self._memory())

    def note(self) -> None:
        """Say in run.json up to where checkpoints have been written, if that is news."""
        step = self._writer.last_step
        if step is not None and step != self._run_dir.about.get("checkpoint"):
            self._run_dir.about |= {"checkpoint": step, "checkpoint_time": round(time.time(), 3)}
            self._run_dir.note()

    @property
    def written(self) -> int:
        """How many checkpoints this process has written."""
        return self._writer.written

    def settle(self) -> None:
        """Wait for what is being written."""
        self._writer.settle()
        self.note()

    def write_last(self) -> None:
        """The run has to end: ``CheckpointWriter.write_last``."""
        self._writer.write_last()

    def last_step(self) -> int | None:
        """The step of the last whole checkpoint; None if there is none, or if they cannot be read."""
        self._writer.settle()
        with contextlib.suppress(RunDirError):  # a full disk: what ended the run is said, not this
            self.note()
        with contextlib.suppress(CheckpointError):
            return next(iter(self._writer.steps()), None)
        return None

    def _require_none_written(self) -> None:
        """Refuse to begin anew a run that has written checkpoints.

        Raises:
            CheckpointError: It has; or nobody knows, because it is of an earlier version of distfa.
        """
        about, unknown = self._run_dir.about, "checkpoint" not in self._run_dir.about
        if about.get("checkpoint") is None and not (unknown and self._elsewhere and self._run_dir.has_records):
            return
        written = "may have written checkpoints" if unknown else f"wrote checkpoints up to step {about['checkpoint']}"
        raise CheckpointError(
            f"the run in {self._run_dir.path} {written}, but there is no complete one in {self._shelf.places}. It "
            "was not restarted, and nothing was removed: set checkpoint.dir to where they are now, or start a "
            "new run"
        )

    # -- callbacks ------------------------------------------------------------------------------

    def begin(self) -> None:
        """Callbacks have been told of the start: give them back what they knew where the run resumes, if it does."""
        self.remind()
        self._remembered = self._memory()

    def remind(self) -> None:
        """Give callbacks back what they knew where the run resumes."""
        if self._stateful is not None and self._remembered is not None:
            self._stateful.load_state_dict(self._remembered)

    def _memory(self) -> Any:
        """A copy of what callbacks know; None without any."""
        return self._stateful.state_dict() if self._stateful else None
