"""One worker in the process of a Ray actor, and how it is called.

Signals never pass through Ray: actors send them to each other over the transport.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import numpy as np
import ray
import torch
from torch import Tensor, nn

from distfa.codecs.choice import time_candidates
from distfa.codecs.timing import Timing
from distfa.errors import ClusterError, LayerError, LayerLost
from distfa.own.parts import Part, take_parts
from distfa.runtime.faults import Fault
from distfa.runtime.hosted_layer import Snapshot
from distfa.runtime.job import Job, RawInputs, RawTargets
from distfa.runtime.phases import wait_for
from distfa.runtime.ray.errors import translate
from distfa.runtime.ray.gauges import LayerGauges
from distfa.runtime.worker import Worker, WorkerStatus, name_worker
from distfa.transport.grpc_transport import GrpcTransport
from distfa.transport.tls import KeyPair, Signed

T = TypeVar("T")

_TAKEN_AT_ONCE, _BETWEEN_SECONDS = 64 * 2**20, 0.02  # for Fault.MEMORY: fast, but slow enough for Ray to see it


class WorkerActor:
    """A ``Worker`` in its own process."""

    def __init__(self, number: int) -> None:
        torch.set_num_threads(1)
        self._number = number
        self._keys = KeyPair()
        self._job: Job | None = None
        self._worker: Worker | None = None
        self._gauges: dict[int, LayerGauges] = {}

    def build(
        self,
        job: Job,
        own: Sequence[Part],
        inputs: RawInputs | None,
        targets: RawTargets | None,
        modules: dict[int, nn.Module],
        resume: dict[int, dict[str, Tensor]],
        subkeys: dict[int, bytes],
    ) -> None:
        """Make the layers; not in the constructor, so that errors reach the caller as they are."""
        take_parts(own)
        self._job = job
        self._gauges = {layer: LayerGauges(job.run_id, layer, self._number) for layer in job.hosted[self._number - 1]}
        self._worker = Worker(
            job, self._number, inputs=inputs, targets=targets, modules=modules, resume=resume, subkeys=subkeys
        )

    def request(self) -> bytes:
        """A signing request for the key that this process made and keeps."""
        return self._keys.request(self._number)

    def listen(self, host: str, advertised: str, signed: Signed | None) -> str:
        """Listen on ``host``, under TLS with a signed certificate; returns where others find this worker."""
        job, worker = self._built()
        transport = GrpcTransport(
            dataclasses.replace(job.wire, host=host),
            run_id=job.run_id,
            worker=self._number,
            worker_of=job.worker_of,
            title=name_worker(job, self._number),
            credentials=self._keys.credentials(signed) if signed else None,
            advertised=advertised,
        )
        return worker.listen(transport)

    def connect(self, addresses: dict[int, str], deadline_seconds: float) -> None:
        self._built()[1].connect(addresses, deadline_seconds)

    def run(self) -> None:
        self._built()[1].run()

    def status(self) -> WorkerStatus:
        found = self._built()[1].status()
        for layer in found.layers:
            self._gauges[layer.layer].show(layer)
        return found

    def state(self) -> dict[str, Tensor]:
        return self._built()[1].state()

    def snapshot(self, layer: int, step: int) -> Snapshot | None:
        return self._built()[1].snapshot(layer, step)

    def close(self) -> None:
        """Drop every stream, so that a run in transit ends; ``build`` may then begin another."""
        if self._worker is not None:
            self._worker.close()

    def time_codecs(self, rows: int, columns: int, dtype: torch.dtype, zeros: float) -> dict[str, Timing]:
        """The cost of codecs on this processor."""
        return time_candidates(rows, columns, dtype, zeros=zeros)

    def blob(self, size_bytes: int) -> Any:
        """Bytes that no network can compress."""
        return np.random.default_rng().bytes(size_bytes)

    def seconds_to_get(self, blob: list[Any]) -> float:
        """How many seconds it takes to get bytes from another node."""
        began = time.monotonic()
        ray.get(blob[0])
        return time.monotonic() - began

    def inject(self, fault: Fault) -> None:
        """Cause a fault in this process, on purpose."""
        if fault is Fault.CUT:
            self.close()
        elif fault is Fault.MEMORY:
            taken = []
            while True:
                taken.append(np.ones(_TAKEN_AT_ONCE, np.uint8))
                time.sleep(_BETWEEN_SECONDS)
        else:
            os.kill(os.getpid(), signal.SIGKILL if fault is Fault.KILL else signal.SIGSTOP)

    def _built(self) -> tuple[Job, Worker]:
        if self._job is None or self._worker is None:
            raise LayerError(f"worker {self._number} was called before it was built; call build first")
        return self._job, self._worker


class ActorHandle:
    """A worker's actor, as the coordinator sees it."""

    def __init__(self, job: Job, worker: int, actor: Any) -> None:
        self.worker, self.layers, self._title = worker, job.hosted[worker - 1], name_worker(job, worker)
        self.actor = actor

    def __str__(self) -> str:
        return self._title

    def call(self, method: str, *args: object) -> Future[Any]:
        """Call a method of the actor; Ray's errors become distfa's."""
        return answer_of(lambda: self.actor.call.remote(method, *args))


class MeasuredActor:
    """A worker's actor, measured before it is built."""

    def __init__(self, handle: ActorHandle, dtype: torch.dtype, limit_seconds: float) -> None:
        self.actor, self._handle, self._dtype, self._limit = handle.actor, handle, dtype, limit_seconds

    def time_codecs(self, rows: int, columns: int, zeros: float) -> dict[str, Timing]:
        found: dict[str, Timing] = self._ask("time_codecs", rows, columns, self._dtype, zeros)
        return found

    def seconds_from(self, other: MeasuredActor, size_bytes: int) -> float:
        return float(self._ask("seconds_to_get", [other.actor.call.remote("blob", size_bytes)]))

    def _ask(self, method: str, *args: object) -> Any:
        asked = {str(self._handle): self._handle.call(method, *args)}
        return all_of(asked, "measure its link and its processor", self._limit)[0]


def answer_of(ask: Callable[[], Any]) -> Future[Any]:
    """A future with Ray's answer; Ray's errors become distfa's, also those that asking raises."""
    answer: Future[Any] = Future()

    def settle(given: Future[Any]) -> None:
        error = given.exception()
        if error is None:
            answer.set_result(given.result())
        else:
            answer.set_exception(translate(error))

    try:
        ask().future().add_done_callback(settle)
    except ray.exceptions.RayError as exc:
        answer.set_exception(translate(exc))
    return answer


def all_of(asked: Mapping[str, Future[T]], what: str, limit_seconds: float) -> list[T]:
    """The answer of every worker; raises the error of the first, or names the worker that is late.

    Args:
        asked: By the worker in words, in order.
        what: What it was asked to do.
        limit_seconds: Longest wait.

    Raises:
        DistfaError: A worker raised it; the message has its name.
        LayerLost: A worker did not answer in time.
    """
    late = wait_for(asked.values(), limit_seconds)
    for name, future in asked.items():
        if future not in late and (error := future.exception()) is not None:
            if isinstance(error, LayerLost | ClusterError):
                raise type(error)(f"{name}: {error}") from error
            raise error
    for name, future in asked.items():
        if future in late:
            raise LayerLost(
                f"{name} did not {what} within {limit_seconds:.0f} s; check its node and Ray's logs there, "
                "or raise ray.startup_seconds"
            )
    return [future.result() for future in asked.values()]
