"""Recovery: what was lost is replaced, and the run resumes from its last checkpoint, or from its start."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from distfa.errors import DistfaError, LayerLost, TransportError
from distfa.run.bookkeeper import Bookkeeper
from distfa.run.checkpoints import RunCheckpoints
from distfa.run.disk.checkpoint import Checkpoint
from distfa.run.disk.run_dir import RunDir
from distfa.run.engines import Engine
from distfa.run.injector import Injector
from distfa.runtime.job import Job, ResumeState
from distfa.settings import RunSpec

AT_THE_START = Checkpoint(step=0, layers={}, traffic={}, notes={})


class Recovery:
    """Starts the engine of one run, and starts it again from an earlier place after a loss.

    Args:
        spec: The run's.
        job: The same, as the layers know it.
        run_dir: Its directory, which counts the attempts.
        engine: What carries it out.
        books: Told where the run resumes.
        checkpoints: Where the run can resume.
        injector: The faults that are caused on purpose.
    """

    def __init__(
        self,
        spec: RunSpec,
        job: Job,
        run_dir: RunDir,
        engine: Engine,
        books: Bookkeeper,
        checkpoints: RunCheckpoints,
        injector: Injector,
    ) -> None:
        self._job, self._engine, self._run_dir = job, engine, run_dir
        self._books, self._checkpoints, self._injector = books, checkpoints, injector
        self._most = most_recoveries(spec)
        self._in_a_row, self._written_before = 0, 0
        self._start = AT_THE_START

    def start(self, at: Checkpoint) -> None:
        """Start the engine at a checkpoint or ``AT_THE_START``."""
        run_id = f"{self._job.run_id}-{self._run_dir.about['attempt']}"  # older messages are refused by it
        job = replace(self._job, run_id=run_id, first=at.step, elapsed_seconds=self._books.tally.last_seconds)
        if codecs := at.notes.get("codecs"):
            job = replace(job, activation_codec=codecs["activations"], error_codec=codecs["errors"])
        self._engine.start(job, ResumeState(layers=at.layers, books=at.notes.get("books", {}), traffic=at.traffic))

    def remember_start(self, notes: dict[str, Any]) -> None:
        """Remember what is known as training begins, for a loss before the first checkpoint."""
        self._start = replace(AT_THE_START, notes=notes)

    def curable(self, failure: DistfaError) -> DistfaError:
        """The failure, if what was lost can be replaced.

        Raises:
            DistfaError: The failure itself, if it would only come again or has come too often.
        """
        if not self._most or not isinstance(failure, LayerLost | TransportError):
            raise failure
        self._checkpoints.settle()
        written = self._checkpoints.written
        self._in_a_row = 1 if written > self._written_before else self._in_a_row + 1
        self._written_before = written
        if self._in_a_row > self._most:
            raise type(failure)(
                f"{failure}; {self._most} recoveries since the last checkpoint did not help (ray.max_recoveries)"
            ) from failure
        return failure

    def recover(self, failure: DistfaError) -> Checkpoint:
        """Go back to the last checkpoint, or to the start, and return it.

        Raises:
            DistfaError: Something else was lost in the meantime.
        """
        began, lost, about = time.monotonic(), self._books.tally.steps, self._run_dir.about
        at = self._checkpoints.find() or self._start
        self._books.go_back(at)
        self._checkpoints.remind()
        about["attempt"] += 1
        self._run_dir.note()
        self._books.tell(f"{failure}; resuming from step {at.step}, attempt {about['attempt']}")
        self.start(at)
        told = {"cause": str(failure), "failed_at": lost, "step": at.step, "attempt": about["attempt"]}
        told["seconds"] = round(time.monotonic() - began, 3)
        self._books.add_recovery(told | self._injector.noticed(began))
        return at


def most_recoveries(spec: RunSpec) -> int:
    """How often a run may go back without a new checkpoint in between; nothing can be lost in one process."""
    return 0 if spec.engine == "serial" else spec.ray.max_recoveries
