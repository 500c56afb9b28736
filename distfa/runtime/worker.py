"""A worker: the process, or the thread, that one layer or several adjacent ones work in; its transport and its time.

The same plain class runs in a thread (tests) or in a Ray actor (worker_actor.py). What belongs to one layer is in
``HostedLayer``.

One thread computes for all layers. Each layer's work stops wherever it takes or gives a signal. The thread goes on with
a layer whose signal is there, or for whose signal there is room; it waits only when there is none, and then for
whatever comes first. So a layer makes the same operations in the same order as in a worker of its own, and where it
could not stop there, it cannot stop here.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from distfa.core.base.kernels import deterministic_kernels
from distfa.core.blame import blame_layer, explain_memory_error
from distfa.core.books.joining import Entry
from distfa.core.routes import Kind, Link, reads_labels
from distfa.errors import DeadlineExceeded, LayerError
from distfa.privacy.stream import Stream
from distfa.runtime.barrier import CutReached
from distfa.runtime.hosted_layer import HostedLayer, Snapshot
from distfa.runtime.job import Job, RawInputs, RawTargets
from distfa.runtime.worker_ports import WorkerPorts
from distfa.transport.base import Tap, Transport
from distfa.transport.port import Traffic


@dataclass(frozen=True, kw_only=True)
class LayerStatus:
    """The status of a layer.

    Attributes:
        layer: Which layer.
        replica: Which of its replicas, counted from 0.
        step: The step it is working on.
        waiting_for: What it is waiting for, in words; empty while its worker computes for it.
        waiting_for_layer: The layer it waits for; 0 while its worker computes for it.
        since_seconds: How long it has waited, or computed, without a change.
        wait_seconds: Total time in which its worker did not compute for it, including a wait in progress.
        busy_seconds: Total time in which it did.
        queue: How many signals have arrived and are waiting.
        entries: What it has to report since it was last asked: records, its ends of the books, and marks.
        traffic: What it has sent so far, per link and kind.
        finished: Whether its run has ended, well or not.
    """

    layer: int
    replica: int
    step: int
    waiting_for: str
    waiting_for_layer: int
    since_seconds: float
    wait_seconds: float
    busy_seconds: float
    queue: int
    entries: tuple[Entry | CutReached, ...]
    traffic: dict[tuple[Link, Kind], Traffic]
    finished: bool


@dataclass(frozen=True, kw_only=True)
class WorkerStatus:
    """The status of a worker.

    Attributes:
        worker: Which worker.
        layers: The status of each of its layers.
        cpu_seconds: Processor time of its process since the run began.
        pid: Id of its process.
        host: Name of the machine.
    """

    worker: int
    layers: tuple[LayerStatus, ...]
    cpu_seconds: float
    pid: int
    host: str


class Worker:
    """Lets the layers of one worker work in this process.

    Args:
        job: The run.
        worker: Which worker, counted from 1.
        inputs: The inputs, for the first layer.
        targets: The targets, for the layers that read labels (``routes.reads_labels``).
        modules: The user's modules, for the layers that start from them, by layer.
        resume: The ``state_dict`` of each layer before step ``job.first``, by layer.
        tap: Sees every message the worker sends.
        subkeys: The keys of its layers' noise, by layer, if the run is private.

    Attributes:
        layers: Its layers, from the lowest up.

    Raises:
        LayerError: There is not enough memory for a layer.
    """

    def __init__(
        self,
        job: Job,
        worker: int,
        *,
        inputs: RawInputs | None = None,
        targets: RawTargets | None = None,
        modules: Mapping[int, nn.Module] | None = None,
        resume: Mapping[int, Mapping[str, Tensor]] | None = None,
        tap: Tap | None = None,
        subkeys: Mapping[int, bytes] | None = None,
    ) -> None:
        self._job, self._worker = job, worker
        self._ports = WorkerPorts(job, worker, torch.device(job.device), tap)
        self._transport: Transport | None = None
        self._started = self._cpu_before = self._finished = 0.0
        self._use_threads()
        self.layers: list[HostedLayer] = []
        for layer in job.hosted[worker - 1]:
            try:
                hosted = HostedLayer(
                    job,
                    layer,
                    job.replica_of(worker),
                    self._ports,
                    inputs=inputs if layer == 1 else None,
                    targets=targets if reads_labels(job.recipe, layer) else None,
                    module=(modules or {}).get(layer),
                    resume=(resume or {}).get(layer),
                    noise=Stream(subkeys[layer]) if subkeys else None,
                )
            except Exception as exc:
                if (said := explain_memory_error(exc)) is not None:
                    raise LayerError(f"layer {layer}, before its first step: {said}") from exc
                raise
            self.layers.append(hosted)

    def listen(self, transport: Transport) -> str:
        """Accept signals from ``transport``; returns this worker's address."""
        self._transport = transport
        return self._ports.listen(transport)

    def connect(self, addresses: Mapping[int, str], deadline_seconds: float) -> None:
        """Open a stream to every worker this one sends to.

        Args:
            addresses: Worker -> address.
            deadline_seconds: Longest wait for each stream.
        """
        if self._transport is None:
            raise LayerError(f"{name_worker(self._job, self._worker)} was told to connect before it listens")
        self._ports.connect(self._transport, addresses, deadline_seconds)

    def run(self) -> None:
        """Train the layers to the end of the run.

        Raises:
            LayerError: Anything went wrong; the message has layer and step.
        """
        device = self.layers[0].layer.device
        self._use_threads()
        self._started = time.monotonic()
        self._cpu_before = time.process_time()
        try:
            with deterministic_kernels(device):
                for hosted in self.layers:
                    self._guard(hosted, partial(hosted.start, self._started))
                self._take_turns()
                self._ports.close()
        finally:
            self._finished = time.monotonic()

    def status(self) -> WorkerStatus:
        """How the layers are doing; each of their reports is handed out once."""
        traffic, queues = self._ports.traffic(), self._ports.queues()
        return WorkerStatus(
            worker=self._worker,
            layers=tuple(
                self._status_of(hosted, traffic[hosted.layer.index], queues[hosted.layer.index])
                for hosted in self.layers
            ),
            cpu_seconds=time.process_time() - self._cpu_before if self._started else 0.0,
            pid=os.getpid(),
            host=platform.node(),
        )

    def state(self) -> dict[str, Tensor]:
        """The layers' parameters and buffers, on the CPU, under the keys of the user's model."""
        return {key: value.cpu() for hosted in self.layers for key, value in hosted.layer.state().items()}

    def snapshot(self, layer: int, step: int) -> Snapshot | None:
        """``HostedLayer.snapshot``."""
        return next(hosted.snapshot(step) for hosted in self.layers if hosted.layer.index == layer)

    def close(self) -> None:
        """Drop every stream, at once."""
        if self._transport is not None:
            self._transport.close()

    def _use_threads(self) -> None:
        """Let torch use as many threads as on every engine, in the thread that calls this."""
        if self._job.device == "cpu":
            torch.set_num_threads(self._job.recipe.threads)

    def _take_turns(self) -> None:
        """Go on with one ready layer after the other, until all are at their end."""
        changed = self._ports.changed
        while True:
            if (hosted := self._find_ready()) is None:
                changed.clear()  # before looking once more: what changes after it ends the wait
                hosted = self._find_ready()
            if hosted is not None:
                self._guard(hosted, hosted.go_on)
                continue
            if not (going := [hosted for hosted in self.layers if not hosted.finished]):
                return
            waited = time.monotonic() - max(hosted.since for hosted in going)
            left = self._job.wire.deadline_seconds - waited
            if left <= 0:
                self._give_up(going, waited)
            changed.wait(left)

    def _find_ready(self) -> HostedLayer | None:
        """The layer to go on with: backwards come before forwards, and upper layers before lower ones."""
        found = None
        for hosted in reversed(self.layers):
            if hosted.ready():
                if hosted.backwards:
                    return hosted
                found = found or hosted
        return found

    def _give_up(self, going: Sequence[HostedLayer], waited_seconds: float) -> None:
        """Nothing has come in time, for no layer: fail as the lowest layer that waits for another worker."""
        for hosted in sorted(going, key=lambda hosted: (hosted.step, hosted.layer.index)):
            if hosted.request is not None and not self._ports.is_inside(hosted.request):
                hosted.go_on(waited_seconds)
                return
        raise DeadlineExceeded(
            f"{name_worker(self._job, self._worker)}: its layers have waited for each other for "
            f"{waited_seconds:.1f} s, which is a fault of distfa's own: please report it"
        )

    def _guard(self, hosted: HostedLayer, act: Callable[[], None]) -> None:
        """Let errors name the layer and the step."""
        try:
            act()
        except Exception as exc:
            blame_layer(hosted.layer.index, hosted.step, exc)

    def _status_of(self, hosted: HostedLayer, traffic: dict[tuple[Link, Kind], Traffic], queue: int) -> LayerStatus:
        entries, now = hosted.reports(), time.monotonic()
        busy, ended = hosted.busy_seconds, self._finished or now
        what, layer = self._find_wait(hosted)
        return LayerStatus(
            layer=hosted.layer.index,
            replica=hosted.replica,
            step=hosted.step,
            waiting_for=what,
            waiting_for_layer=layer,
            since_seconds=now - (hosted.since or self._started or now),
            wait_seconds=max(0.0, ended - (self._started or ended) - busy),
            busy_seconds=busy,
            queue=queue,
            entries=entries,
            traffic=traffic,
            finished=self._finished > 0,
        )

    def _find_wait(self, hosted: HostedLayer) -> tuple[str, int]:
        """The signal that a layer waits for, in words, and the layer: another one, or its turn."""
        if (request := hosted.request) is None:
            return "", 0
        if not hosted.ready():
            return self._ports.describe(request)
        others = [hosted.layer.index for hosted in self.layers if hosted.request is None and not hosted.finished]
        return (f"its worker, which computes for layer {others[0]}", others[0]) if others else ("", 0)


def name_worker(job: Job, worker: int) -> str:
    """A worker in words: its layer, or its number and its layers."""
    layers = job.hosted[worker - 1]
    which = f", replica {job.replica_of(worker)}" if job.recipe.replicas > 1 else ""
    if len(layers) == 1:
        return f"layer {layers[0]}{which}"
    return f"worker {worker} (layers {layers[0]}-{layers[-1]}{which})"
