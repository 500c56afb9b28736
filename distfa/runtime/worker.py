"""A layer worker: the process, or the thread, that one layer works in; its transport, its waits and its time.

The same plain class runs in a thread (tests) or in a Ray actor (layer_actor.py). What belongs to the layer itself is in
``HostedLayer``.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from distfa.core.base.kernels import deterministic_kernels
from distfa.core.blame import blame_layer
from distfa.core.books.joining import Entry
from distfa.core.routes import Kind, Link
from distfa.errors import DistfaError, LayerError
from distfa.runtime.barrier import CutReached
from distfa.runtime.hosted_layer import HostedLayer, Snapshot
from distfa.transport.base import Transport
from distfa.transport.port import Traffic, Waiting


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
    entries: tuple[Entry | CutReached, ...]
    traffic: dict[tuple[Link, Kind], Traffic]
    finished: bool
    pid: int
    host: str


class LayerWorker:
    """Lets a layer work in this process.

    Args:
        hosted: The layer.
        waiting: Its waits.

    Attributes:
        hosted: As given.
    """

    def __init__(self, hosted: HostedLayer, waiting: Waiting) -> None:
        self.hosted, self._waiting = hosted, waiting
        self._transport: Transport | None = None
        self._started = self._cpu_before = 0.0
        self._finished = 0.0
        self._progressed = time.monotonic()

    def listen(self, transport: Transport) -> str:
        """Accept signals from ``transport``; returns this layer's address."""
        self._transport = transport
        return self.hosted.ports.listen(transport)

    def connect(self, addresses: Mapping[int, str], deadline_seconds: float) -> None:
        """Open a stream to every layer this one sends to.

        Args:
            addresses: Layer -> address.
            deadline_seconds: Longest wait for each stream.
        """
        if self._transport is None:
            raise LayerError(f"layer {self.hosted.layer.index} was told to connect before it listens")
        self.hosted.ports.connect(self._transport, addresses, deadline_seconds)

    def run(self) -> None:
        """Train the layer to the end of the run.

        Raises:
            LayerError: Anything went wrong; the message has layer and step.
        """
        hosted, device = self.hosted, self.hosted.layer.device
        if device.type == "cpu":
            torch.set_num_threads(1)  # engines agree to the last bit only with equal numbers of threads
        self._started = self._progressed = time.monotonic()
        self._cpu_before = time.process_time()
        try:
            with deterministic_kernels(device):
                for _ in hosted.work(self._started):
                    self._progressed = time.monotonic()
        except DistfaError:
            raise
        except Exception as exc:
            raise blame_layer(hosted.layer.index, hosted.step, exc) from exc
        finally:
            self._finished = time.monotonic()

    def status(self) -> Status:
        """How the layer is doing; each of its reports is handed out once."""
        hosted, entries = self.hosted, self.hosted.reports()
        now, waiting = time.monotonic(), self._waiting
        ended = self._finished or now
        waited = waiting.total_seconds + (max(0.0, ended - waiting.since) if waiting.what else 0.0)
        return Status(
            layer=hosted.layer.index,
            step=hosted.step,
            waiting_for=waiting.what,
            waiting_for_layer=waiting.layer if waiting.what else 0,
            since_seconds=now
            - (waiting.since if waiting.what else max(self._progressed, waiting.ended, self._started)),
            wait_seconds=waited,
            busy_seconds=max(0.0, ended - (self._started or ended) - waited),
            cpu_seconds=time.process_time() - self._cpu_before if self._started else 0.0,
            queue=hosted.ports.queue,
            entries=entries,
            traffic=hosted.ports.traffic(),
            finished=self._finished > 0,
            pid=os.getpid(),
            host=platform.node(),
        )

    def state(self) -> dict[str, Tensor]:
        """The layer's parameters and buffers, on the CPU, under the keys of the user's model."""
        return {key: value.cpu() for key, value in self.hosted.layer.state().items()}

    def snapshot(self, step: int) -> Snapshot | None:
        """``HostedLayer.snapshot``."""
        return self.hosted.snapshot(step)

    def close(self) -> None:
        """Drop every stream, at once."""
        if self._transport is not None:
            self._transport.close()
