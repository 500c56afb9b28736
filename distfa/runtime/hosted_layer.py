"""One layer in the process that hosts it: its work, its time, its reports and its snapshots."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distfa.core import schedule
from distfa.core.base import order
from distfa.core.base.private import Noise
from distfa.core.books.joining import Entry
from distfa.core.layer import Layer
from distfa.core.requests import Request, Take, Work
from distfa.core.routes import Kind, Link
from distfa.core.steps import LayerSteps, Score, Share
from distfa.runtime.barrier import CutReached
from distfa.runtime.job import Job, RawInputs, RawTargets
from distfa.runtime.timeline import Timeline
from distfa.runtime.worker_ports import WorkerPorts
from distfa.transport.port import Traffic

# A snapshot is kept this long for the coordinator to fetch it, unless there are too many; the last two are always kept.
# The bytes are a worker's: its layers share them.
_FETCH_SECONDS = 3.0
_MOST_SNAPSHOTS, _MOST_BYTES = 64, 256 * 2**20
_FORWARDS = (schedule.Forward, schedule.Evaluate)


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


def _never() -> bool:
    return False


class HostedLayer:
    """Layer ``layer`` of a job, without the process around it.

    One thread works, for this layer or for others of its worker, and another asks: what they share, reports and
    snapshots, is behind a lock.

    Args:
        job: The run.
        layer: Which layer, counted from 1.
        replica: Which of its replicas, counted from 0.
        ports: The ends of its worker's links.
        inputs: The inputs, for the first layer.
        targets: The targets, for the layers that read labels (``routes.reads_labels``).
        module: The user's module, if the layer starts from that.
        resume: Its ``state_dict`` before step ``job.first``.
        noise: What it draws its noise from, if the run is private.

    Attributes:
        layer: What computes.
        step: The step it is working on.
        request: The signal that it stops at; None while it computes, and at its end.
        ready: Tells whether it could go on from there.
        backwards: Whether it is at the work of a backward pass, which comes before forwards and evaluations.
        since: ``time.monotonic`` when it stopped there, or, while it computes, when it last came on.
    """

    def __init__(
        self,
        job: Job,
        layer: int,
        replica: int,
        ports: WorkerPorts,
        *,
        inputs: RawInputs | None = None,
        targets: RawTargets | None = None,
        module: nn.Module | None = None,
        resume: Mapping[str, Tensor] | None = None,
        noise: Noise | None = None,
    ) -> None:
        recipe, device = job.recipe, torch.device(job.device)
        self._job, self._ports, self.replica = job, ports, replica
        self.layer = Layer(recipe, layer, device=device, module=module, noise=noise)
        if resume is not None:
            self.layer.load_state_dict(resume)
        x = inputs.readers(recipe.dtype, device) if inputs else (None, None)
        y = targets.readers(recipe.dtype, device) if targets else (None, None)
        self._train, self._test = (Share(inputs=i, targets=t) for i, t in zip(x, y, strict=True))
        self.step = 0
        self.request: Request | None = None
        self.ready: Callable[[], Any] = _never
        self.backwards = False
        self.since = 0.0
        self._work: Work[None] | None = None  # None before its start and after its end
        self._busy_seconds = 0.0  # up to where it last stopped
        self._resumed = 0.0  # when it went on from there; 0 if it has not
        self._entries: list[Entry | CutReached] = []
        self._snapshots: dict[int, tuple[Snapshot, float]] = {}  # with the time they were made
        self._lock = threading.Lock()

    def start(self, started: float) -> None:
        """Begin, and work up to the first request.

        Args:
            started: ``time.monotonic`` when the work of all layers began.
        """
        self._work = self._carry_out_all(started)
        self.go_on()

    def go_on(self, waited_seconds: float = 0.0) -> None:
        """Carry out its request, which is ready or has waited too long, and work up to the next one."""
        if self._work is None:
            return
        request, answer = self.request, None
        self._resumed = time.monotonic()
        try:
            if isinstance(request, Take):
                answer = self._ports.take(request, waited_seconds)
            elif request is not None:
                self._ports.give(request, waited_seconds)
            self.request, self.since = None, time.monotonic()  # one that fails stays, to show whom it was for
            self.ready = _never
            self.request = self._work.send(answer)
            self.ready = self._ports.gate(self.request)
        except StopIteration:
            self._work = None
        finally:
            stopped = time.monotonic()
            self._busy_seconds += stopped - self._resumed
            self._resumed, self.since = 0.0, self.since if self.request is request else stopped

    @property
    def finished(self) -> bool:
        """Whether its work has ended."""
        return self._work is None

    @property
    def busy_seconds(self) -> float:
        """Time spent on computing for this layer, with what it has just begun."""
        resumed = self._resumed
        return self._busy_seconds + (time.monotonic() - resumed if resumed else 0.0)

    def _carry_out_all(self, started: float) -> Work[None]:
        """Carry out the schedule's operations to the end of the run."""
        job, layer = self._job, self.layer
        steps = LayerSteps(
            job.recipe,
            layer,
            self._ports,
            train=self._train,
            test=self._test,
            enter=self._enter,
            started=started - job.elapsed_seconds,
            replica=self.replica,
        )
        yield from steps.resume()
        timeline = Timeline(layer.index, job.steps, lambda: self.busy_seconds)
        batches = order.batches(job.recipe, job.train_rows, first=job.first, stop=job.stop)
        ahead = schedule.forwards_ahead(job.recipe, layer.index, job.hosted)
        own = {"replica": self.replica, "replicas": job.recipe.replicas}
        for operation in schedule.operations(batches, ahead, **own):
            self.step, self.backwards = operation.batch.step, not isinstance(operation, _FORWARDS)
            with timeline.span(operation):
                yield from self._carry_out(steps, operation)
            self.since = time.monotonic()
        if self.replica == 0:
            self._enter(timeline.record())

    def reports(self) -> tuple[Entry | CutReached, ...]:
        """The layer's reports since it was last asked: records, its ends of the books, and marks."""
        with self._lock:
            entries, self._entries = tuple(self._entries), []
        return entries

    def state_dict(self) -> dict[str, Tensor]:
        """All that the layer needs to continue, on the CPU; only between two steps."""
        return {name: value.cpu() for name, value in self.layer.state_dict().items()}

    def snapshot(self, step: int) -> Snapshot | None:
        """The state that was kept at the cut before ``step``; handed out once; None if later ones have replaced it."""
        with self._lock:
            found, _ = self._snapshots.pop(step, (None, 0.0))
        return found

    def _carry_out(self, steps: LayerSteps, operation: schedule.Operation) -> Work[None]:
        batch = operation.batch
        if isinstance(operation, schedule.Forward):
            yield from steps.forward(batch, operation.micro_batch)
        elif isinstance(operation, schedule.Backward):
            yield from steps.backward(batch, operation.micro_batch)
        elif isinstance(operation, schedule.Begin):
            if batch.probe:
                yield from self._probe(steps, batch)
            yield from steps.begin(batch)
        elif isinstance(operation, schedule.Update):
            yield from steps.update(batch)
        elif isinstance(operation, schedule.Evaluate):
            yield from self._evaluate(steps, batch)
        else:
            self._take_snapshot(batch.step + 1)

    def _probe(self, steps: LayerSteps, batch: order.Batch) -> Work[None]:
        """This layer's part of the true gradient of the batch: all forwards, then all backwards."""
        for m in range(len(batch.parts)):
            yield from steps.probe_up(batch, m)
        for m in range(len(batch.parts)):
            yield from steps.probe_down(batch, m)

    def _evaluate(self, steps: LayerSteps, batch: order.Batch) -> Work[None]:
        recipe, score = self._job.recipe, Score(self._job.test_rows)
        for number, rows in enumerate(order.evaluation(recipe, score.rows)):
            yield from steps.evaluate_part(batch, number, rows, score)
            self.since = time.monotonic()
        if score.rows:
            steps.finish_evaluation(batch, score)
        if batch.last and len(rows := order.audit(recipe, self._job.train_rows)):
            yield from steps.audit(batch, rows)

    def _take_snapshot(self, step: int) -> None:
        """Copy the state, for the coordinator to fetch, and mark the place in the reports.

        The state of all replicas is the same, so only the first one's is kept.
        """
        if self.replica:
            self._enter(CutReached(step=step))
            return
        kept = Snapshot(
            step=step, state=self.state_dict(), traffic=copy.deepcopy(self._ports.traffic()[self.layer.index])
        )
        now, size = time.monotonic(), sum(value.nbytes for value in kept.state.values())
        most = _MOST_BYTES // len(self._job.hosted[self._job.worker_of(self.layer.index) - 1])
        room = max(1, min(_MOST_SNAPSHOTS, most // max(1, size)) - 1)
        with self._lock:
            before = sorted(self._snapshots)[-room:]
            stay = [at for at in before if now - self._snapshots[at][1] < _FETCH_SECONDS] or before[-1:]
            self._snapshots = {**{at: self._snapshots[at] for at in stay}, step: (kept, now)}
            self._entries.append(CutReached(step=step))

    def _enter(self, entry: Entry | CutReached) -> None:
        with self._lock:
            self._entries.append(entry)
