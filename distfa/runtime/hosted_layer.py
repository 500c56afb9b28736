"""What belongs to one layer in the process that hosts it: its work, its links, its reports and its snapshots."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distfa.core import schedule
from distfa.core.base import order
from distfa.core.books.joining import Entry
from distfa.core.layer import Layer
from distfa.core.routes import Kind, Link
from distfa.core.steps import LayerSteps, Score, Share
from distfa.runtime.barrier import CutReached
from distfa.runtime.job import Job, RawInputs, RawTargets
from distfa.runtime.timeline import Timeline
from distfa.runtime.wire_ports import WirePorts
from distfa.transport.base import Tap
from distfa.transport.port import Traffic, Waiting

# A snapshot is kept this long for the coordinator to fetch it, unless there are too many; the last two are always kept.
_FETCH_SECONDS = 3.0
_MOST_SNAPSHOTS, _MOST_BYTES = 64, 256 * 2**20


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All that a layer needs to continue at a cut, on the CPU.

    Attributes:
        step: The next step.
        state: The layer's ``state_dict``.
        traffic: What the layer has sent, per link and kind.
    """

    step: int
    state: dict[str, Tensor]
    traffic: dict[tuple[Link, Kind], Traffic]


class HostedLayer:
    """Layer ``layer`` of a job, without the process around it.

    One thread works, and another asks: what they share, reports and snapshots, is behind a lock.

    Args:
        job: The run.
        layer: Which layer, counted from 1.
        waiting: Told of every wait; it belongs to the process.
        inputs: The inputs, for the first layer.
        targets: The targets, for the layers that read labels (``routes.reads_labels``).
        module: The user's module, if the layer starts from that.
        resume: Its ``state_dict`` before step ``job.first``.
        tap: Sees every message the layer sends.

    Attributes:
        layer: What computes.
        ports: Its ends of its links.
        step: The step it is working on.
    """

    def __init__(
        self,
        job: Job,
        layer: int,
        waiting: Waiting,
        *,
        inputs: RawInputs | None = None,
        targets: RawTargets | None = None,
        module: nn.Module | None = None,
        resume: Mapping[str, Tensor] | None = None,
        tap: Tap | None = None,
    ) -> None:
        recipe, device = job.recipe, torch.device(job.device)
        self._job, self._waiting = job, waiting
        self.layer = Layer(recipe, layer, device=device, module=module)
        if resume is not None:
            self.layer.load_state_dict(resume)
        x = inputs.readers(recipe.dtype, device) if inputs else (None, None)
        y = targets.readers(recipe.dtype, device) if targets else (None, None)
        self._train, self._test = (Share(inputs=i, targets=t) for i, t in zip(x, y, strict=True))
        self.ports = WirePorts(job, layer, device, waiting, tap)
        self.step = 0
        self._entries: list[Entry | CutReached] = []
        self._snapshots: dict[int, tuple[Snapshot, float]] = {}  # with the time they were made
        self._lock = threading.Lock()

    def work(self, started: float) -> Iterator[None]:
        """Carry out the schedule's operations to the end of the run; yields whenever the layer has come on.

        Args:
            started: ``time.monotonic`` when the work began.
        """
        job, layer = self._job, self.layer
        steps = LayerSteps(
            job.recipe,
            layer,
            self.ports,
            train=self._train,
            test=self._test,
            enter=self._enter,
            started=started - job.elapsed_seconds,
        )
        timeline = Timeline(layer.index, job.steps, self._waiting)
        batches = order.batches(job.recipe, job.train_rows, first=job.first, stop=job.stop)
        for operation in schedule.operations(batches, schedule.forwards_ahead(job.recipe, layer.index)):
            self.step = operation.batch.step
            with timeline.span(operation):
                yield from self._carry_out(steps, operation)
            yield
        self._enter(timeline.record())
        self.ports.close()

    def reports(self) -> tuple[Entry | CutReached, ...]:
        """What the layer has to report since it was last asked: records, its ends of the books, and marks."""
        with self._lock:
            entries, self._entries = tuple(self._entries), []
        return entries

    def state_dict(self) -> dict[str, Tensor]:
        """All that the layer needs to continue, on the CPU; only between two steps."""
        return {name: value.cpu() for name, value in self.layer.state_dict().items()}

    def snapshot(self, step: int) -> Snapshot | None:
        """What was kept at the cut before ``step``; handed out once; None if later ones have replaced it."""
        with self._lock:
            found, _ = self._snapshots.pop(step, (None, 0.0))
        return found

    def _carry_out(self, steps: LayerSteps, operation: schedule.Operation) -> Iterator[None]:
        batch = operation.batch
        if isinstance(operation, schedule.Forward):
            steps.forward(batch, operation.micro_batch)
        elif isinstance(operation, schedule.Backward):
            steps.backward(batch, operation.micro_batch)
        elif isinstance(operation, schedule.Begin):
            if batch.probe:
                self._probe(steps, batch)
            steps.begin(batch)
        elif isinstance(operation, schedule.Update):
            steps.update(batch)
        elif isinstance(operation, schedule.Evaluate):
            yield from self._evaluate(steps, batch)
        else:
            self._take_snapshot(batch.step + 1)

    def _probe(self, steps: LayerSteps, batch: order.Batch) -> None:
        """This layer's part of the true gradient of the batch: all forwards, then all backwards."""
        for m in range(len(batch.parts)):
            steps.probe_up(batch, m)
        for m in range(len(batch.parts)):
            steps.probe_down(batch, m)

    def _evaluate(self, steps: LayerSteps, batch: order.Batch) -> Iterator[None]:
        recipe, score = self._job.recipe, Score(self._job.test_rows)
        for number, rows in enumerate(order.evaluation(recipe, score.rows)):
            steps.evaluate_part(batch, number, rows, score)
            yield
        if score.rows:
            steps.finish_evaluation(batch, score)
        if batch.last and len(rows := order.audit(recipe, self._job.train_rows)):
            steps.audit(batch, rows)

    def _take_snapshot(self, step: int) -> None:
        """Copy the state, for the coordinator to fetch, and mark the place in the reports."""
        kept = Snapshot(step=step, state=self.state_dict(), traffic=copy.deepcopy(self.ports.traffic()))
        now, size = time.monotonic(), sum(value.nbytes for value in kept.state.values())
        room = max(1, min(_MOST_SNAPSHOTS, _MOST_BYTES // max(1, size)) - 1)
        with self._lock:
            before = sorted(self._snapshots)[-room:]
            stay = [at for at in before if now - self._snapshots[at][1] < _FETCH_SECONDS] or before[-1:]
            self._snapshots = {**{at: self._snapshots[at] for at in stay}, step: (kept, now)}
            self._entries.append(CutReached(step=step))

    def _enter(self, entry: Entry) -> None:
        with self._lock:
            self._entries.append(entry)
