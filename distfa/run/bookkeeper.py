"""Keeps the figures of a run, writes them down as it trains, and makes its result in the end."""

from __future__ import annotations

import logging
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from distfa.core import rules
from distfa.core.base.losses import LOSSES
from distfa.core.base.order import count_steps, epoch_ends
from distfa.core.books.records import Record
from distfa.data import Dataset
from distfa.intake.private import Private
from distfa.intake.start import start_in_words
from distfa.intake.subject import model_in_words
from distfa.run import collapse, notes
from distfa.run.disk import run_log
from distfa.run.disk.checkpoint import Checkpoint
from distfa.run.disk.run_dir import RunDir
from distfa.run.engines import Clock, Engine
from distfa.run.nothing_to_learn import nothing_to_learn
from distfa.run.recorder import Recorder
from distfa.run.result import Result, Tally, bp_payload, with_total
from distfa.runtime.job import Job
from distfa.settings import RunSpec
from distfa.transport.message import Direction

log = logging.getLogger(__name__)


class Bookkeeper:
    """Adds up the records of one run and writes them down; it decides nothing.

    Args:
        spec: The run's.
        job: The same, as the layers know it.
        dataset: What it trains on.
        run_dir: Where to write.
        engine: What carries it out; asked for bytes and for the state of its books once it has started.
        private: What a private run reveals; None for any other.

    Attributes:
        tally: The figures so far.
        clock: How long it has taken.
        steps: Updates it will make in all.
        epoch_ends: The number of steps after each epoch.
    """

    def __init__(
        self,
        spec: RunSpec,
        job: Job,
        dataset: Dataset,
        run_dir: RunDir,
        engine: Engine,
        private: Private | None = None,
    ) -> None:
        self._private = private
        self._spec, self._run_id, self._dataset = spec, job.run_id, dataset
        self._run_dir, self._engine = run_dir, engine
        self._rule = rules.build_rule(job.recipe)
        several = spec.loss == "bce" and not dataset.classification  # several labels per sample, each right or wrong
        self.tally = Tally(
            classification=dataset.classification or several,
            positions=dataset.outputs if several else dataset.positions,
        )
        self.clock = Clock()
        self.steps, self.epoch_ends = count_steps(job.recipe, job.train_rows), epoch_ends(job.recipe, job.train_rows)
        plain = spec.loss in LOSSES and not spec.label_smoothing and spec.class_weights is None
        loss = spec.loss if plain else "another"  # for which the loss of a constant answer is not known
        self._watcher = collapse.build_watcher(loss, dataset, steps=self.steps, lr=spec.optimizer.lr, rule=self._rule)
        self._recorder = Recorder(
            run_dir,
            spec,
            steps=self.steps,
            boundaries=self.boundaries,
            layers=self.layers,
            epsilon=private.epsilon if private else lambda steps: None,
        )
        self._recoveries: list[dict[str, Any]] = run_dir.about.setdefault("recoveries", [])
        run_dir.events.describe(self._rule, spec)

    # -- while it trains ------------------------------------------------------------------------

    def started(self) -> None:
        """The engine has started, and training is about to begin."""
        self.clock.started()
        if not self._engine.job.first:
            self._note([*collapse.of_settings(self._rule), *nothing_to_learn(self._dataset)])
        self.log(f"training starts, engine {self._spec.engine}")

    def add(self, record: Record) -> None:
        """Add a record to the figures, and write it down with what it shows.

        Raises:
            LedgerViolation: The record breaks the law, and the spec says to stop then.
            RunDirError: It cannot be written.
        """
        self.tally.add(record)
        self._recorder.log(record, self.tally)
        self._note(self._watcher.add(record))

    def tick(self) -> None:
        """Time has passed: ``Recorder.tick``."""
        self._recorder.tick()

    def trained(self) -> None:
        """The last step is made: note what is known only then."""
        self._note(self._watcher.finish())

    def boundaries(self) -> list[dict[str, Any]]:
        """Bytes per boundary so far, and what bp would have sent for the same rows between the same workers."""
        job, rows = self._engine.job, self.tally.train_rows
        up, down = job.codec(Direction.UP), job.codec(Direction.DOWN)
        sent = self._engine.boundary_bytes(rows=rows, renewals=self.tally.renewals)
        by_bp = partial(bp_payload, job.recipe, rows=rows, up=up, down=down)

        def crosses(row: dict[str, Any]) -> bool:
            below = row["boundary"]
            return "shared" not in row and "beside" not in row and job.worker_of(below) != job.worker_of(below + 1)

        return [
            row | {"bp_payload": by_bp(row["boundary"], sent_up=row["up_payload"] or 0) if crosses(row) else 0}
            for row in sent
        ]

    def layers(self) -> list[dict[str, Any]]:
        """How each layer is doing, once all have reported; empty if nothing is distributed."""
        found = list(self._engine.facts().get("layers", []))
        return found if len(found) == len(self._engine.job.recipe.network) else []

    # -- going back -----------------------------------------------------------------------------

    def notes(self, stop: str | None) -> dict[str, Any]:
        """The figures that a checkpoint taken now must hold; ``go_back`` takes them.

        Args:
            stop: Why the run ends here; None if it continues.
        """
        job, books, log_bytes = self._engine.job, self._engine.books(), self._run_dir.metrics_bytes
        codecs = {"codecs": {"activations": job.activation_codec, "errors": job.error_codec}}
        return codecs | notes.note_progress(self.tally, self._watcher.seen, books, log_bytes, stop)

    def go_back(self, at: Checkpoint) -> None:
        """The run resumes from there: forget what came after."""
        self.tally, self._watcher.seen = notes.copies_of(at.notes)
        self._recorder.go_back(at.step, self.tally.last_seconds)
        self._run_dir.rewind(at.notes["metrics_bytes"], at.step)

    def add_recovery(self, told: dict[str, Any]) -> None:
        """The run has gone back: keep why, where and how long it took."""
        self._recoveries.append(told)
        self._run_dir.note()

    def keep_errors(self) -> None:
        """Keep the last error of every layer that had one, for the log and for ``distfa status``."""
        last = self._run_dir.about.setdefault("last_errors", {})
        for layer, error in sorted(self._engine.errors().items()):
            last[str(layer)] = {"attempt": self._run_dir.about["attempt"], "error": error}
            self.log(error, logging.ERROR, layer=layer)

    # -- words and figures ----------------------------------------------------------------------

    def tell(self, text: str) -> None:
        """Tell an operator something now: as a warning, which Python prints to stderr by default."""
        log.warning("%s", text, extra=self._place())

    def log(self, text: str, level: int = logging.INFO, **place: int) -> None:
        """Write something to the run's own log only."""
        run_log.LOG.log(level, "%s", text, extra=self._place() | place)

    def result(self, stop: str | None) -> Result:
        """The result of the run, which ends now; ``stop`` says why, if it ends early."""
        recipe, tally = self._engine.job.recipe, self.tally
        return Result(
            run_dir=str(self._run_dir.path),
            engine=self._spec.engine,
            rule=recipe.rule,
            init=recipe.init,
            start=start_in_words(recipe),
            schedule=recipe.schedule,
            layer_sizes=recipe.network.sizes,
            model=model_in_words(self._spec, recipe.network),
            epochs=bisect_left(self.epoch_ends, tally.steps) + 1 if tally.steps else 0,
            steps=tally.steps,
            train_loss=tally.train_loss,
            train_accuracy=tally.train_accuracy,
            test_loss=tally.test_loss,
            test_accuracy=tally.test_accuracy,
            metrics={} if tally.test is None else tally.test.metrics,
            samples_per_second=tally.samples_per_second,
            wall_seconds=self.clock.wall_seconds,
            startup_seconds=self.clock.startup_seconds,
            bytes=with_total(self.boundaries()),
            alignment=None if tally.probe is None else asdict(tally.probe),
            ledger={
                "entries": tally.entries,
                "signals_compared": tally.compared,
                "violations": len(tally.violations),
                "first_violation": next(iter(tally.violations), None),
            },
            renewals=tally.renewals,
            stopped=stop,
            findings=[asdict(finding) for finding in tally.findings],
            recoveries=self._recoveries,
            exploded=self._watcher.exploded or (tally.epoch_rows > 0 and not math.isfinite(tally.train_loss)),
            facts=self._engine.facts(),
            privacy=None if self._private is None else self._private.claim(tally.steps),
        )

    def _note(self, findings: Sequence[collapse.Finding]) -> None:
        for finding in findings:
            self.tally.findings.append(finding)
            self._recorder.finding(finding)

    def _place(self) -> dict[str, Any]:
        """Where the run is: its step and attempt."""
        return {"run": self._run_id, "attempt": self._run_dir.about["attempt"], "step": self.tally.steps}
