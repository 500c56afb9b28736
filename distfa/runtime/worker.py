"""A layer worker: one layer, its ends of the wire, and the loop that works through the schedule.

The same plain class runs in a thread (tests) or in a Ray actor (layer_actor.py).
"""

from __future__ import annotations

import copy
import os
import platform
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distfa.codecs import LOSSLESS, carry, resolve
from distfa.core import schedule
from distfa.core.base import order
from distfa.core.base.kernels import deterministic_kernels
from distfa.core.blame import blame_layer
from distfa.core.books.joining import Entry
from distfa.core.layer import Layer
from distfa.core.routes import Direction, Kind, Link, links
from distfa.core.steps import Score, Share, Steps
from distfa.errors import DistfaError, LayerError
from distfa.runtime.barrier import Mark
from distfa.runtime.job import Job, RawInputs, RawTargets
from distfa.runtime.timeline import Timeline
from distfa.transport.base import Tap, Transport
from distfa.transport.inbox import Inbox
from distfa.transport.port import InPort, OutPort, Traffic, Waiting

# A snapshot is kept this long for the coordinator to fetch it, unless there are too many; the last two are always kept.
_FETCH_SECONDS = 3.0
_MOST_SNAPSHOTS, _MOST_BYTES = 64, 256 * 2**20


@dataclass(frozen=True, kw_only=True)
class Status:
    """The status of a worker.

    Attributes:
        layer: Which layer.
        step: The step it is working on.
        waiting_for: What it is waiting for, in words; empty while it computes.
        waiting_for_layer: The layer it waits for; 0 while it computes.
        since_seconds: How long it has waited, or computed, without a change.
        wait_seconds: Total time spent waiting, including a wait in progress.
        busy_seconds: Total time spent on anything else.
        cpu_seconds: Processor time of its process since the run began.
        queue: How many signals have arrived and are waiting.
        entries: What it has to report since it was last asked: records, its ends of the books, and marks.
        traffic: What it has sent so far, per link and kind.
        finished: Whether its run has ended, well or not.
        pid: Id of its process.
        host: Name of the machine.
    """

    layer: int
    step: int
    waiting_for: str
    waiting_for_layer: int
    since_seconds: float
    wait_seconds: float
    busy_seconds: float
    cpu_seconds: float
    queue: int
    entries: tuple[Entry | Mark, ...]
    traffic: dict[tuple[Link, Kind], Traffic]
    finished: bool
    pid: int
    host: str


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


class WirePorts:
    """A layer's ends of its links, as ``Steps`` uses them: signals become messages, messages become signals.

    Args:
        job: The run.
        layer: Which layer.
        device: The device of its signals.
        waiting: Told of every wait.
        tap: Sees every message this layer sends.
    """

    def __init__(self, job: Job, layer: int, device: torch.device, waiting: Waiting, tap: Tap | None) -> None:
        self._job, self._device, self._waiting, self._tap = job, device, waiting, tap
        self._incoming = [link for link in links(job.recipe) if link.receiver == layer]
        self._outgoing = [link for link in links(job.recipe) if link.sender == layer]
        self._in: dict[Link, InPort] = {}
        self._out: dict[Link, OutPort] = {}

    def listen(self, transport: Transport) -> str:
        """Accept signals from ``transport``; returns this layer's address."""
        wire, job = self._job.wire, self._job
        for link in self._incoming:
            inbox = Inbox(link, run_id=job.run_id, window=wire.window, max_payload_bytes=wire.max_payload_bytes)
            self._in[link] = InPort(
                link=link,
                run_id=job.run_id,
                codec=job.codec(link.direction),
                exact_codec=resolve(LOSSLESS, job.recipe.signal_dtype),
                inbox=inbox,
                dtype=job.recipe.signal_dtype,
                device=self._device,
                wire=wire,
                waiting=self._waiting,
            )
        return transport.listen([port.inbox for port in self._in.values()])

    def connect(self, transport: Transport, addresses: Mapping[int, str], deadline_seconds: float) -> None:
        """Open a stream by ``transport`` to every layer this one sends to."""
        job = self._job
        for link in self._outgoing:
            self._out[link] = OutPort(
                link=link,
                run_id=job.run_id,
                codec=job.codec(link.direction),
                exact_codec=resolve(LOSSLESS, job.recipe.signal_dtype),
                sender=transport.connect(link, addresses[link.receiver], deadline_seconds),
                wire=job.wire,
                waiting=self._waiting,
                tap=self._tap,
            )

    def take(self, link: Link, kind: Kind, step: int, micro_batch: int, rows: int) -> Tensor:
        """The signal that the schedule expects from a link, and no other."""
        return self._in[link].receive(kind=kind, step=step, micro_batch=micro_batch, rows=rows)

    def give(self, link: Link, kind: Kind, step: int, micro_batch: int, signal: Tensor) -> None:
        """Send a signal over a link."""
        self._out[link].send(signal, kind=kind, step=step, micro_batch=micro_batch)

    def seen(self, link: Link, signal: Tensor) -> Tensor:
        """What the receiver should see of a training signal."""
        if link.direction is Direction.RENEWAL:
            return signal
        return carry(self._job.codec(link.direction), signal.flatten(1))

    def traffic(self) -> dict[tuple[Link, Kind], Traffic]:
        """What has been sent so far."""
        return {(link, kind): counted for link, port in self._out.items() for kind, counted in port.traffic.items()}

    @property
    def queue(self) -> int:
        """How many signals have arrived and are waiting."""
        return sum(port.inbox.queue for port in self._in.values())

    def close(self) -> None:
        """Wait until everything that was sent is received, then end the streams."""
        for port in self._out.values():
            port.close()


class LayerWorker:
    """Runs layer ``layer`` of a job.

    Args:
        job: The run.
        layer: Which layer, counted from 1.
        inputs: The inputs, for the first layer.
        targets: The targets, for the layers that read labels (``routes.reads_labels``).
        module: The user's module, if the layer starts from that.
        resume: Its ``state_dict`` before step ``job.first``.
        tap: Sees every message this worker sends.
    """

    def __init__(
        self,
        job: Job,
        layer: int,
        *,
        inputs: RawInputs | None = None,
        targets: RawTargets | None = None,
        module: nn.Module | None = None,
        resume: Mapping[str, Tensor] | None = None,
        tap: Tap | None = None,
    ) -> None:
        recipe, device = job.recipe, torch.device(job.device)
        self._job = job
        self._layer = Layer(recipe, layer, device=device, module=module)
        if resume is not None:
            self._layer.load_state_dict(resume)
        x = inputs.readers(recipe.dtype, device) if inputs else (None, None)
        y = targets.readers(recipe.dtype, device) if targets else (None, None)
        self._train, self._test = (Share(inputs=i, targets=t) for i, t in zip(x, y, strict=True))
        self._waiting = Waiting()
        self._ports = WirePorts(job, layer, device, self._waiting, tap)
        self._transport: Transport | None = None
        self._step = 0
        self._started = self._cpu_before = 0.0
        self._finished = 0.0
        self._progressed = time.monotonic()
        self._entries: list[Entry | Mark] = []
        self._snapshots: dict[int, tuple[Snapshot, float]] = {}  # with the time they were made
        self._lock = threading.Lock()

    # -- life ---------------------------------------------------------------------------------

    def listen(self, transport: Transport) -> str:
        """Accept signals from ``transport``; returns this layer's address."""
        self._transport = transport
        return self._ports.listen(transport)

    def connect(self, addresses: Mapping[int, str], deadline_seconds: float) -> None:
        """Open a stream to every layer this one sends to.

        Args:
            addresses: Layer -> address.
            deadline_seconds: Longest wait for each stream.
        """
        if self._transport is None:
            raise LayerError(f"layer {self._layer.index} was told to connect before it listens")
        self._ports.connect(self._transport, addresses, deadline_seconds)

    def run(self) -> None:
        """Train this layer to the end of the run.

        Raises:
            LayerError: Anything went wrong; the message has layer and step.
        """
        if self._layer.device.type == "cpu":
            torch.set_num_threads(1)  # engines agree to the last bit only with equal numbers of threads
        self._started = self._progressed = time.monotonic()
        self._cpu_before = time.process_time()
        recipe, layer, samples = self._job.recipe, self._layer, self._job.train_rows
        steps = Steps(
            recipe,
            layer,
            self._ports,
            train=self._train,
            test=self._test,
            enter=self._enter,
            started=self._started - self._job.elapsed_seconds,
        )
        try:
            timeline = Timeline(layer.index, self._job.steps, self._waiting)
            ahead = schedule.forwards_ahead(recipe, layer.index)
            batches = order.batches(recipe, samples, first=self._job.first, stop=self._job.stop)
            with deterministic_kernels(layer.device):
                for operation in schedule.operations(batches, ahead):
                    self._step = operation.batch.step
                    with timeline.span(operation):
                        self._carry_out(steps, operation)
                    self._progressed = time.monotonic()
            self._enter(timeline.record())
            self._ports.close()
        except DistfaError:
            raise
        except Exception as exc:
            raise blame_layer(layer.index, self._step, exc) from exc
        finally:
            self._finished = time.monotonic()

    def status(self) -> Status:
        """How the layer is doing; each of its reports is handed out once."""
        with self._lock:
            entries, self._entries = tuple(self._entries), []
        now, waiting = time.monotonic(), self._waiting
        ended = self._finished or now
        waited = waiting.total_seconds + (max(0.0, ended - waiting.since) if waiting.what else 0.0)
        return Status(
            layer=self._layer.index,
            step=self._step,
            waiting_for=waiting.what,
            waiting_for_layer=waiting.layer if waiting.what else 0,
            since_seconds=now
            - (waiting.since if waiting.what else max(self._progressed, waiting.ended, self._started)),
            wait_seconds=waited,
            busy_seconds=max(0.0, ended - (self._started or ended) - waited),
            cpu_seconds=time.process_time() - self._cpu_before if self._started else 0.0,
            queue=self._ports.queue,
            entries=entries,
            traffic=self._ports.traffic(),
            finished=self._finished > 0,
            pid=os.getpid(),
            host=platform.node(),
        )

    def state(self) -> dict[str, Tensor]:
        """The layer's parameters and buffers, on the CPU, under the keys of the user's model."""
        return {key: value.cpu() for key, value in self._layer.state().items()}

    def state_dict(self) -> dict[str, Tensor]:
        """All that the layer needs to continue, on the CPU; only between two steps."""
        return {name: value.cpu() for name, value in self._layer.state_dict().items()}

    def snapshot(self, step: int) -> Snapshot | None:
        """What was kept at the cut before ``step``; handed out once; None if later ones have replaced it."""
        with self._lock:
            found, _ = self._snapshots.pop(step, (None, 0.0))
        return found

    def close(self) -> None:
        """Drop every stream, at once."""
        if self._transport is not None:
            self._transport.close()

    # -- work ---------------------------------------------------------------------------------

    def _carry_out(self, steps: Steps, operation: schedule.Operation) -> None:
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
            self._evaluate(steps, batch)
        else:
            self._keep(batch.step + 1)

    def _probe(self, steps: Steps, batch: order.Batch) -> None:
        """This layer's part of the true gradient of the batch: all forwards, then all backwards."""
        for m in range(len(batch.parts)):
            steps.probe_up(batch, m)
        for m in range(len(batch.parts)):
            steps.probe_down(batch, m)

    def _evaluate(self, steps: Steps, batch: order.Batch) -> None:
        recipe, score = self._job.recipe, Score(self._job.test_rows)
        for number, rows in enumerate(order.evaluation(recipe, score.rows)):
            steps.evaluate_part(batch, number, rows, score)
            self._progressed = time.monotonic()
        if score.rows:
            steps.evaluated(batch, score)
        if batch.last and len(rows := order.audit(recipe, self._job.train_rows)):
            steps.audit(batch, rows)

    def _keep(self, step: int) -> None:
        """Copy the state, for the coordinator to fetch, and mark the place in the reports."""
        kept = Snapshot(step=step, state=self.state_dict(), traffic=copy.deepcopy(self._ports.traffic()))
        now, size = time.monotonic(), sum(value.nbytes for value in kept.state.values())
        room = max(1, min(_MOST_SNAPSHOTS, _MOST_BYTES // max(1, size)) - 1)
        with self._lock:
            before = sorted(self._snapshots)[-room:]
            stay = [at for at in before if now - self._snapshots[at][1] < _FETCH_SECONDS] or before[-1:]
            self._snapshots = {**{at: self._snapshots[at] for at in stay}, step: (kept, now)}
            self._entries.append(Mark(step=step))

    def _enter(self, entry: Entry) -> None:
        with self._lock:
            self._entries.append(entry)
