"""Which of its records a run writes down, and which of them end it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from distfa.core.base.metrics import numbers_of
from distfa.core.books.digest import DigestRecord
from distfa.core.books.ledger import LedgerRecord
from distfa.core.books.probe import ProbeRecord
from distfa.core.books.records import AuditRecord, Cut, EvalRecord, Record, RenewalRecord, StepRecord, TimelineRecord
from distfa.errors import LedgerViolation
from distfa.run.collapse import Finding
from distfa.run.disk.run_dir import RunDir
from distfa.run.result import Tally
from distfa.settings import RunSpec

_TRAFFIC_SECONDS = 1.0  # seconds between records of bytes and waiting
_STILL_SECONDS = 5.0  # the same while no step ends
_TERMS = ("change", "discretisation", "optimizer", "nonhomogeneity", "staleness", "renewal", "transport", "residual")


class Recorder:
    """Writes records to metrics.jsonl and for TensorBoard.

    Args:
        run_dir: Where to write.
        spec: How often to write, and what to do if the law breaks.
        steps: Steps of the whole run.
        boundaries: Gives the bytes so far, per boundary.
        layers: Gives how each layer is doing; empty if nothing is distributed.
        epsilon: Gives what so many steps of a private run reveal; None of any other.
    """

    def __init__(
        self,
        run_dir: RunDir,
        spec: RunSpec,
        *,
        steps: int,
        boundaries: Callable[[], list[dict[str, Any]]],
        layers: Callable[[], list[dict[str, Any]]],
        epsilon: Callable[[int], float | None] = lambda steps: None,
    ) -> None:
        self._run_dir, self._spec, self._steps = run_dir, spec, steps
        self._boundaries, self._layers, self._epsilon = boundaries, layers, epsilon
        self._traffic_logged, self._told = 0.0, False
        self._last = 0, 0.0, time.monotonic()  # step, its seconds, when it was reported

    def log(self, record: Record, tally: Tally) -> None:
        """Write a record down.

        Args:
            record: The record that came.
            tally: The figures, including this record.

        Raises:
            LedgerViolation: The record breaks the law, and the spec says to stop then.
            RunDirError: It cannot be written.
        """
        if isinstance(record, StepRecord):
            self._last = record.step, record.seconds, time.monotonic()
        if isinstance(record, LedgerRecord):
            self._entry(record)
            self._stop_unless(record.holds, tally)
        elif isinstance(record, DigestRecord):
            if not record.holds:  # normally two ends agree, and that is only counted
                self._run_dir.log({"kind": "digest", **asdict(record)})
            self._stop_unless(record.holds, tally)
        elif isinstance(record, ProbeRecord):
            self._probe(record)
        elif isinstance(record, TimelineRecord | RenewalRecord):
            kind = "timeline" if isinstance(record, TimelineRecord) else "renewal"
            self._run_dir.log({"kind": kind, **asdict(record)})
        elif isinstance(record, EvalRecord) or (isinstance(record, StepRecord) and self._is_due(record)):
            self._figures(record, tally)
        elif not isinstance(record, StepRecord | AuditRecord | Cut):
            raise TypeError(f"unknown kind of record: {type(record).__name__}")

    def finding(self, finding: Finding) -> None:
        """Write a finding down."""
        self._run_dir.log({"kind": "finding", **asdict(finding)})

    def go_back(self, step: int, seconds: float) -> None:
        """The run continues from an earlier place.

        Args:
            step: The next step.
            seconds: How long training took before it.
        """
        self._traffic_logged, self._told = seconds, False
        self._last = step, seconds, time.monotonic()

    def tick(self) -> None:
        """Time has passed: write down where the layers are, once they are known, and who waits while no step ends."""
        step, seconds, heard = self._last
        still = time.monotonic() - heard
        if not self._told:
            self._traffic(step, seconds, every=0.0)
        elif still >= _STILL_SECONDS:
            self._traffic(step, seconds + still, every=_STILL_SECONDS)

    def _is_due(self, record: StepRecord) -> bool:
        return record.step % self._spec.log_every == 0 or record.step == self._steps - 1

    def _figures(self, record: StepRecord | EvalRecord, tally: Tally) -> None:
        kind, prefix = ("eval", "test") if isinstance(record, EvalRecord) else ("step", "train")
        values: dict[str, Any] = {"loss": record.loss}
        if tally.classification:
            values["accuracy"] = record.correct / (max(1, record.rows) * tally.positions)
        if (epsilon := self._epsilon(record.step + 1)) is not None:
            values["epsilon"] = epsilon
        if kind == "step":
            values["samples_per_second"] = tally.samples_per_second
        about: dict[str, Any] = {"kind": kind, "step": record.step, "epoch": record.epoch}
        if isinstance(record, EvalRecord) and record.metrics:
            about["metrics"] = record.metrics
        named = numbers_of(about.get("metrics", {}))
        self._run_dir.log({**about, **values, "rows": record.rows, "seconds": record.seconds})
        if kind == "step":
            self._traffic(record.step, record.seconds)
        self._run_dir.events.add(
            record.step, {f"{prefix}/{name}": value for name, value in {**named, **values}.items()}
        )

    def _traffic(self, step: int, seconds: float, *, every: float = _TRAFFIC_SECONDS) -> None:
        """Write bytes and waiting so far, from time to time: a watcher computes rates from them."""
        if seconds - self._traffic_logged < every:
            return
        if layers := self._layers():
            self._traffic_logged, self._told = seconds, True
            about = {"kind": "traffic", "step": step, "seconds": seconds}
            self._run_dir.log({**about, "boundaries": self._boundaries(), "layers": layers})

    def _entry(self, entry: LedgerRecord) -> None:
        values = {key: value for key, value in asdict(entry).items() if value is not None}
        if entry.transport_tolerance == math.inf:  # there is none with a lossy codec
            del values["transport_tolerance"]
        shares = values.pop("neurons", None)
        self._run_dir.log({"kind": "ledger", **values, "holds": entry.holds})
        if shares is not None:
            self._run_dir.log({"kind": "neurons", "step": entry.step, "boundary": entry.boundary, **shares})
        shown = (name for name in (*_TERMS, "angle_degrees") if name in values)
        self._run_dir.events.add(entry.step, {f"ledger/{entry.boundary}/{name}": values[name] for name in shown})

    def _probe(self, probe: ProbeRecord) -> None:
        self._run_dir.log({"kind": "probe", **asdict(probe)})
        scalars = {f"alignment/{layer.layer}": layer.cosine for layer in probe.layers}
        scalars |= {f"signal/{layer.layer}": layer.signal for layer in probe.layers if layer.signal is not None}
        whole = {"alignment/global": probe.cosine, "alignment/dominance": probe.dominance}
        rows = {f"alignment of neurons/{layer.layer}": layer.neurons for layer in probe.layers if layer.neurons}
        self._run_dir.events.add(probe.step, {**scalars, **whole}, rows)

    def _stop_unless(self, holds: bool, tally: Tally) -> None:
        if not holds and self._spec.ledger.on_violation == "stop":
            raise LedgerViolation(tally.violations[-1])
