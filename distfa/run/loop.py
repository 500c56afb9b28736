"""The loop of a run: it takes the records of the engine as they come, and goes back when something is lost."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from distfa.core.books.records import Cut, Record
from distfa.data import Dataset
from distfa.errors import CheckpointError, DistfaError, Interrupted, LayerError, LayerLost, TransportError
from distfa.intake.private import Private
from distfa.intake.subject import Subject, raw_samples
from distfa.run import engines, notes
from distfa.run.bookkeeper import Bookkeeper
from distfa.run.checkpoints import RunCheckpoints
from distfa.run.disk.run_dir import RunDir
from distfa.run.engines import SerialEngine
from distfa.run.injector import Injector
from distfa.run.observing import Observer, Progress
from distfa.run.recovery import AT_THE_START, Recovery
from distfa.runtime.faults import PlannedFault
from distfa.runtime.hosted_layer import Snapshot
from distfa.runtime.job import Job
from distfa.settings import RunSpec


class Loop:
    """Trains one run to its end. It alone knows all parts of a run; each of them knows only those made before it.

    Args:
        spec: The run's.
        job: The same, as the layers know it.
        subject: What is trained.
        dataset: What it trains on.
        run_dir: Where it is kept.
        observer: Shown every record.
        faults: Faults that are caused on purpose.
        private: Of a private run, what it needs beyond the rest.
        resumed: Whether to begin at the last checkpoint in the run directory; at the start if there is none.

    Attributes:
        books: What the run has come to.
        checkpoints: Where it can resume.
        stop: Why the run ends at its next cut; None if it continues.

    Raises:
        CheckpointError: The checkpoint is of another spec, model or data; or one has been written and is not found.
        SpecError: There are faults, and the layers are in this process.
    """

    def __init__(
        self,
        spec: RunSpec,
        job: Job,
        subject: Subject,
        dataset: Dataset,
        run_dir: RunDir,
        observer: Observer,
        faults: Sequence[PlannedFault],
        *,
        resumed: bool,
        private: Private | None = None,
    ) -> None:
        inputs, targets = raw_samples(job.recipe.network, dataset)
        self._engine = engines.build_engine(
            spec,
            inputs=inputs,
            targets=targets,
            modules=subject.initial_modules(spec.init),
            subkeys=private.subkeys() if private else {},
        )
        self._injector, self._observer = Injector(faults, self._engine), observer
        self.books = Bookkeeper(spec, job, dataset, run_dir, self._engine, private)
        self.checkpoints = RunCheckpoints(spec, run_dir, notes.identify_run(spec, job, dataset), observer, self.books)
        self._recovery = Recovery(spec, job, run_dir, self._engine, self.books, self.checkpoints, self._injector)
        self._at = AT_THE_START
        if resumed and (found := self.checkpoints.resume(subject.start_digest(spec))) is not None:
            self._at = found
            self.books.go_back(found)
        self.stop: str | None = self._at.notes.get("stop")
        self._epoch_ends = frozenset(self.books.epoch_ends)
        self._cut, self._at_cut = 0, list[Snapshot]()

    def train(self) -> dict[str, Tensor]:
        """Train to the end and return the weights.

        Raises:
            Interrupted: Ctrl-C or SIGTERM came; the error holds the weights so far, if they could be had.
            DistfaError: The run failed.
        """
        with contextlib.closing(self._engine):
            self._recovery.start(self._at)
            self.books.started()
            self._show(None)
            self.checkpoints.begin()
            self._recovery.remember_start(self.books.notes(self.stop))
            try:
                weights = self._trained()
            except (LayerLost, TransportError):
                raise
            except BaseException:
                self.checkpoints.write_last()  # while the layers can still give their state
                raise
            self.checkpoints.settle()
        return weights

    def _trained(self) -> dict[str, Tensor]:
        """Train, with as many recoveries as it takes."""
        failure: DistfaError | None = None
        while True:
            try:
                if failure is not None:
                    self._at = self._recovery.recover(failure)
                    self.stop = self._at.notes.get("stop")
                return self._to_the_end()
            except DistfaError as exc:
                self.books.keep_errors()
                failure = self._recovery.curable(exc)
            except (KeyboardInterrupt, SystemExit) as exc:
                raise self._interrupted() from exc

    def _to_the_end(self) -> dict[str, Tensor]:
        if self.stop is not None and self._at.layers:  # the run had ended at this cut
            return _model_of(self._at.layers.values())
        for record in self._engine.records(self.books.tick):
            self._take(record)
            if self.stop is not None and isinstance(record, Cut):
                return self._weights_at_cut()
        self.books.trained()
        return self._engine.state()

    def _take(self, record: Record) -> None:
        self.books.add(record)
        self.checkpoints.note()
        if not isinstance(record, Cut):
            self._injector.inject(self.books.tally.steps, self.books.clock.trained_seconds)
            self._show(record)
            return
        self._cut, self._at_cut = record.step, []
        self._show(record)
        if self.stop is not None:
            self._weights_at_cut()  # before the checkpoint writer asks, since a layer gives its state once
        snapshots = self._at_cut or self._engine.snapshots(record.step)
        self.checkpoints.offer(record.step, snapshots, self.books.notes(self.stop))

    def _show(self, record: Record | None) -> None:
        self._observer(
            Progress(
                steps=self.books.steps,
                record=record,
                tally=self.books.tally,
                boundaries=self.books.boundaries,
                layers=self.books.layers,
                epoch_ends=self._epoch_ends,
                weights=self._weights_at_cut,
                stop=self._stop_at_next_cut,
            )
        )

    def _stop_at_next_cut(self, reason: str) -> None:
        self.stop = self.stop or reason

    def _weights_at_cut(self) -> dict[str, Tensor]:
        """All weights at the last cut.

        Raises:
            LayerLost: A layer does not give them; the run can go back to a checkpoint.
        """
        if not self._at_cut:
            try:
                self._at_cut = list(self._engine.snapshots(self._cut))
            except LayerLost:
                raise
            except LayerError as exc:  # it hangs, or was asked too late
                raise LayerLost(str(exc)) from exc
        return _model_of(snapshot.state for snapshot in self._at_cut)

    def _interrupted(self) -> Interrupted:
        """The error with the weights so far, from this process or from the last cut."""
        steps = self.books.tally.steps
        error = Interrupted(f"interrupted after {steps} steps")
        if isinstance(self._engine, SerialEngine):
            error.weights = self._engine.state() if steps else None
            return error
        self.checkpoints.write_last()
        with contextlib.suppress(CheckpointError):
            if (found := self.checkpoints.find()) is not None:
                error.weights = _model_of(found.layers.values())
        return error


def _model_of(states: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The parameters and buffers of the model, from the states of the layers."""
    return {
        name.removeprefix("model."): value
        for state in states
        for name, value in state.items()
        if name.startswith("model.")
    }
