"""One run in progress: its records as they come, its checkpoints, its recoveries, its end."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor

from distfa.core import rules
from distfa.core.base.order import audit, count_steps, epoch_ends
from distfa.core.books.records import Cut, Record
from distfa.costs.computed_bytes import computed_bytes
from distfa.data import Dataset
from distfa.errors import CheckpointError, DistfaError, LayerError, LayerLost, TransportError
from distfa.intake.start import start_in_words
from distfa.intake.subject import Subject, model_in_words, raw_samples
from distfa.run import collapse, engines, notes
from distfa.run.disk import run_dir as run_dirs
from distfa.run.disk import run_log
from distfa.run.disk.checkpoint import Checkpoint
from distfa.run.engines import entered
from distfa.run.going_on import GoingOn
from distfa.run.nothing_to_learn import nothing_to_learn
from distfa.run.observing import Observer, Progress, StatefulObserver
from distfa.run.recorder import Recorder
from distfa.run.result import Result, Tally, bp_payload, with_total
from distfa.runtime.faults import PlannedFault
from distfa.runtime.job import Job, ResumeState
from distfa.runtime.worker import Snapshot
from distfa.settings import RunSpec
from distfa.transport.message import Direction

log = logging.getLogger(__name__)


class Attempt:
    """One run in progress."""

    def __init__(
        self,
        spec: RunSpec,
        job: Job,
        subject: Subject,
        dataset: Dataset,
        run_dir: run_dirs.RunDir,
        observer: Observer,
        faults: Sequence[PlannedFault],
    ) -> None:
        self._faults, self._harmed = deque(faults), 0.0
        several = spec.loss == "bce" and not dataset.classification  # several labels per sample, each right or wrong
        self.tally = Tally(
            classification=dataset.classification or several,
            positions=dataset.outputs if several else dataset.positions,
        )
        self._spec, self._run_id = spec, job.run_id
        self._identity = notes.identify_run(spec, job.recipe.network, dataset)
        self._subject, self._dataset = subject, dataset
        self._run_dir, self._observer = run_dir, observer
        self._clock = engines.Clock()
        self._steps, self._ends = count_steps(job.recipe, job.train_rows), epoch_ends(job.recipe, job.train_rows)
        self._rule = rules.build_rule(job.recipe)
        run_dir.events.describe(self._rule, spec)
        plain = not spec.label_smoothing and spec.class_weights is None
        loss = spec.loss if plain else "another"  # for which the loss of a constant answer is not known
        self._watcher = collapse.build_watcher(loss, dataset, steps=self._steps, lr=spec.optimizer.lr, rule=self._rule)
        self._going_on = GoingOn(spec, run_dir, self._identity, observer, tell=self._tell, note=self.log)
        self._job, self._begin = self._numbered(job), ResumeState()
        self._recoveries: list[dict[str, Any]] = run_dir.about.setdefault("recoveries", [])
        self._engine: engines.Engine | None = None
        self._recorder = Recorder(run_dir, spec, steps=self._steps, boundaries=self._boundaries, layers=self._layers)
        self._stop: str | None = None
        self._cut, self._at_cut = 0, list[Snapshot]()
        self.rescued: dict[str, Tensor] | None = None

    def go_on(self) -> None:
        """Take the last checkpoint of the run directory; continue from the start if none has been written.

        Raises:
            CheckpointError: It is of another spec, model or data; or one has been written and is not found.
        """
        found = self._going_on.find()
        if found is not None:
            self._go_back(found.notes, found)
            return
        notes.require_same_run(self._identity, notes.began_with(self._run_dir), self._run_dir.path)
        notes.require_same_start(self._subject.start_digest(self._spec), self._run_dir)
        self._run_dir.rewind(0, 0)

    def carry_out(self) -> tuple[Result, dict[str, Tensor]]:
        inputs, targets = raw_samples(self._job.recipe.network, self._dataset)
        starts = self._subject.starts(self._spec.init)
        self._engine = engines.build(
            self._spec, self._job, inputs=inputs, targets=targets, modules=starts, begin=self._begin
        )
        with self._engine as engine:
            self._clock.started()
            self._job = dataclasses.replace(self._job, activations=engine.job.activations, errors=engine.job.errors)
            if not self._job.first:
                self._note([*collapse.of_settings(self._rule), *nothing_to_learn(self._dataset)])
            self.log(f"training starts, engine {self._spec.engine}")
            self._show(None)
            self._going_on.begin()
            start = self._notes()
            try:
                weights = self._trained(engine, start)
            except (LayerLost, TransportError):
                raise
            except BaseException:
                self._going_on.last()  # while the layers can still give their state
                raise
            self._going_on.settle()
            self._audit(weights)
            boundaries, facts = self._boundaries(), engine.facts()
        choice = self._observer.choose(weights) if isinstance(self._observer, StatefulObserver) else None
        result, kept, last = self._result(boundaries, facts), weights, None
        if choice is not None:
            result, kept = choice.put_into(result), dict(choice.weights)
            last = weights if choice.about["step"] != self.tally.steps else None
        self._run_dir.finish(kept, result.as_dict(), last=last)
        self.log("the run has finished")
        return result, kept

    def kept(self) -> int | None:
        """The step of the last whole checkpoint; None if there is none, or if they cannot be read."""
        return self._going_on.kept()

    def _trained(self, engine: engines.Engine, start: Mapping[str, Any]) -> dict[str, Tensor]:
        """Train, with as many recoveries as it takes, and return the weights."""
        failure: DistfaError | None = None
        while True:
            try:
                if failure is not None:
                    self._recover(failure, engine, start)
                if self._stop is not None and self._begin.layers:  # the run had ended at this cut
                    return _model_of(self._begin.layers.values())
                for record in engine.records(self._recorder.tick):
                    self._take(record)
                    if self._stop is not None and isinstance(record, Cut):
                        return self._weights_at_cut()
                self._note(self._watcher.finish())
                return engine.state()
            except DistfaError as exc:
                self._keep_errors(engine)
                failure = self._going_on.curable(exc)
            except (KeyboardInterrupt, SystemExit):
                self.rescued = self._so_far(engine)
                raise

    def _so_far(self, engine: engines.Engine) -> dict[str, Tensor] | None:
        """The weights of an interrupted run, from this process or from the last cut; None if there are none."""
        if self._spec.engine == "serial":
            return engine.state() if self.tally.steps else None
        self._going_on.last()
        with contextlib.suppress(CheckpointError):
            if (found := self._going_on.find()) is not None:
                return _model_of(found.layers.values())
        return None

    def _weights_at_cut(self) -> dict[str, Tensor]:
        """All weights at the last cut.

        Raises:
            LayerLost: A layer does not give them; the run can go back to a checkpoint.
        """
        if not self._at_cut:
            try:
                self._at_cut = list(entered(self._engine).snapshots(self._cut))
            except LayerLost:
                raise
            except LayerError as exc:  # it hangs, or was asked too late
                raise LayerLost(str(exc)) from exc
        return _model_of(snapshot.state for snapshot in self._at_cut)

    def _stop_at_next_cut(self, reason: str) -> None:
        self._stop = self._stop or reason

    def _take(self, record: Record) -> None:
        self.tally.add(record)
        self._recorder.log(record, self.tally)
        self._note(self._watcher.add(record))
        self._going_on.note()
        if isinstance(record, Cut):
            self._cut, self._at_cut = record.step, []
            self._show(record)
            if self._stop is not None:
                self._weights_at_cut()  # before the keeper asks, since a layer gives its state once
            snapshots = self._at_cut or entered(self._engine).snapshots(record.step)
            self._going_on.offer(record.step, snapshots, self._notes())
            return
        self._harm()
        self._show(record)

    def _harm(self) -> None:
        """Cause the next planned fault, if it is due."""
        if not self._faults or self._harmed:
            return
        due, trained = self._faults[0], self._clock.wall_seconds - self._clock.startup_seconds
        if self.tally.steps >= due.step and trained >= due.seconds:
            self._harmed = time.monotonic()
            entered(self._engine).harm(due.layer, due.fault)

    # -- going on -------------------------------------------------------------------------------

    def _notes(self) -> dict[str, Any]:
        """What a checkpoint taken now must hold besides the state of the layers."""
        books, log_bytes = entered(self._engine).books(), self._run_dir.metrics_bytes
        codecs = {"codecs": {"activations": self._job.activations, "errors": self._job.errors}}
        return (
            self._identity | codecs | notes.note_progress(self.tally, self._watcher.seen, books, log_bytes, self._stop)
        )

    def _go_back(self, noted: Mapping[str, Any], found: Checkpoint | None) -> None:
        """Go on where the notes were made, with the layers of a checkpoint or with those of the start."""
        step = found.step if found else 0
        self.tally, self._watcher.seen = notes.read_tally(noted), notes.read_watcher_state(noted)
        self._stop = noted.get("stop")
        self._begin = ResumeState(
            layers=found.layers if found else {}, books=noted["books"], traffic=found.traffic if found else {}
        )
        self._recorder.go_back(step, self.tally.last_seconds)
        self._job = dataclasses.replace(
            self._job, first=step, elapsed_seconds=self.tally.last_seconds, **noted.get("codecs", {})
        )
        self._run_dir.rewind(noted["metrics_bytes"], step)

    def _numbered(self, job: Job) -> Job:
        """The job under this attempt's number. Every message carries it, and older messages are refused."""
        return dataclasses.replace(job, run_id=f"{self._run_id}-{self._run_dir.about['attempt']}")

    def _recover(self, failure: DistfaError, engine: engines.Engine, start: Mapping[str, Any]) -> None:
        """Go back to the last checkpoint, and on from there.

        Raises:
            DistfaError: Something else was lost in the meantime.
        """
        began, lost = time.monotonic(), self.tally.steps
        found = self._going_on.find()
        self._go_back(found.notes if found else start, found)
        self._going_on.remind()
        self._run_dir.about["attempt"] += 1
        self._run_dir.note()
        self._job = self._numbered(self._job)
        step = self._job.first
        self._tell(f"{failure}; resuming from step {step}, attempt {self._run_dir.about['attempt']}")
        engine.again(self._job, self._begin)
        told = {"cause": str(failure), "failed_at": lost, "step": step, "attempt": self._run_dir.about["attempt"]}
        told["seconds"] = round(time.monotonic() - began, 3)
        if self._harmed:
            done = self._faults.popleft()
            told |= {"fault": done.fault.value, "layer": done.layer, "noticed_seconds": round(began - self._harmed, 3)}
            self._harmed = 0.0
        self._recoveries.append(told)
        self._run_dir.note()

    def _tell(self, text: str) -> None:
        """Tell an operator something now: as a warning, which Python prints to stderr by default."""
        log.warning("%s", text, extra=self._place())

    def log(self, text: str, level: int = logging.INFO, **place: int) -> None:
        """Write something to the run's own log only."""
        run_log.LOG.log(level, "%s", text, extra=self._place() | place)

    def _place(self) -> dict[str, Any]:
        """Where the run is: its step and attempt."""
        return {"run": self._run_id, "attempt": self._run_dir.about["attempt"], "step": self.tally.steps}

    def _keep_errors(self, engine: engines.Engine) -> None:
        """Keep the last error of every layer that had one, for the log and for ``distfa status``."""
        last = self._run_dir.about.setdefault("last_errors", {})
        for layer, error in sorted(engine.errors().items()):
            last[str(layer)] = {"attempt": self._run_dir.about["attempt"], "error": error}
            self.log(error, logging.ERROR, layer=layer)

    def _audit(self, weights: Mapping[str, Tensor]) -> None:
        """Compare the user's own model with what the layers gave.

        Raises:
            LayerError: They differ, or the layers gave nothing.
        """
        recipe, found = self._job.recipe, self.tally.audit
        if not recipe.audit_rows or self._stop is not None:  # the layers make it after the last step only
            return
        if found is None:
            raise LayerError("the run ended without its audit: the outputs of the trained layers were not reported")
        inputs, _ = raw_samples(recipe.network, self._dataset)
        samples, _ = inputs.readers(recipe.dtype, torch.device("cpu"))
        rows = audit(recipe, self._job.train_rows)
        self._subject.audit(recipe, weights, samples.read(rows), found)

    def _note(self, findings: list[collapse.Finding]) -> None:
        for finding in findings:
            self.tally.findings.append(finding)
            self._recorder.finding(finding)

    def _show(self, record: Record | None) -> None:
        self._observer(
            Progress(
                steps=self._steps,
                record=record,
                tally=self.tally,
                boundaries=self._boundaries,
                layers=self._layers,
                epoch_ends=frozenset(self._ends),
                weights=self._weights_at_cut,
                stop=self._stop_at_next_cut,
            )
        )

    def _layers(self) -> list[dict[str, Any]]:
        """How each layer is doing, once all have reported; empty if nothing is distributed."""
        found = list(entered(self._engine).facts().get("layers", []))
        return found if len(found) == len(self._job.recipe.network) else []

    def _boundaries(self) -> list[dict[str, Any]]:
        """Bytes per boundary so far, and what bp would have sent for the same rows."""
        recipe, rows = self._job.recipe, self.tally.train_rows
        up, down = self._job.codec(Direction.UP), self._job.codec(Direction.DOWN)
        sent = entered(self._engine).boundary_bytes()
        if sent is None:
            sent = computed_bytes(recipe, rows=rows, renewals=self.tally.renewals, up=up, down=down)
        by_bp = partial(bp_payload, recipe, rows=rows, up=up, down=down)
        return [row | {"bp_payload": by_bp(row["boundary"], sent_up=row["up_payload"] or 0)} for row in sent]

    def _result(self, boundaries: list[dict[str, Any]], facts: dict[str, object]) -> Result:
        recipe, tally = self._job.recipe, self.tally
        return Result(
            run_dir=str(self._run_dir.path),
            engine=self._spec.engine,
            rule=recipe.rule,
            init=recipe.init,
            start=start_in_words(recipe),
            schedule=recipe.schedule,
            layer_sizes=recipe.network.sizes,
            model=model_in_words(self._spec, recipe.network),
            epochs=bisect_left(self._ends, tally.steps) + 1 if tally.steps else 0,
            steps=tally.steps,
            train_loss=tally.train_loss,
            train_accuracy=tally.train_accuracy,
            test_loss=tally.test_loss,
            test_accuracy=tally.test_accuracy,
            samples_per_second=tally.samples_per_second,
            wall_seconds=self._clock.wall_seconds,
            startup_seconds=self._clock.startup_seconds,
            bytes=with_total(boundaries),
            alignment=None if tally.probe is None else asdict(tally.probe),
            ledger={
                "entries": tally.entries,
                "signals_compared": tally.compared,
                "violations": len(tally.violations),
                "first_violation": next(iter(tally.violations), None),
            },
            renewals=tally.renewals,
            stopped=self._stop,
            findings=[asdict(finding) for finding in tally.findings],
            recoveries=self._recoveries,
            exploded=self._watcher.exploded or (tally.epoch_rows > 0 and not math.isfinite(tally.train_loss)),
            facts=facts,
        )


def _model_of(states: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The parameters and buffers of the model, from the states of the layers."""
    return {
        name.removeprefix("model."): value
        for state in states
        for name, value in state.items()
        if name.startswith("model.")
    }
