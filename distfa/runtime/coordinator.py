"""The coordinator: starts the workers, watches their layers, keeps the score, and says what went wrong.

It runs in the process that started the run and knows workers only by their handles, so it is the same for threads and
for Ray actors. That one process owns the books and the run directory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Protocol

from torch import Tensor

from distfa.core.books.joining import Books
from distfa.core.books.records import Record, StepRecord
from distfa.errors import DeadlineExceeded, DistfaError, LayerError, LayerLost, PeerLost
from distfa.runtime.barrier import Barrier
from distfa.runtime.hosted_layer import Snapshot
from distfa.runtime.worker import LayerStatus, WorkerStatus
from distfa.transport.message import Direction, Kind, Link
from distfa.transport.port import Traffic

_POLL_SECONDS = 0.2
_GRACE_SECONDS = 1.5  # seconds after a failure for the other layers to say what they saw
_KNOWN_SECONDS = 0.3  # the same if a process is known to be dead: then nothing they saw can be the cause
_STATE_SECONDS = 120.0
_APART = (Direction.SHARED, Direction.BESIDE)  # traffic with rows of its own
_NOBODY: Mapping[int, Sequence[int]] = MappingProxyType({})


class Handle(Protocol):
    """One worker, wherever it runs.

    Attributes:
        worker: Which worker, counted from 1.
        layers: The layers that it hosts.
    """

    worker: int
    layers: tuple[int, ...]

    def __str__(self) -> str:
        """The worker in words."""

    def call(self, method: str, *args: object) -> Future[Any]:
        """Call a method of the worker; the future fails with a DistfaError or with the error that the worker raised."""


class Coordinator:
    """Watches the workers of one run.

    Args:
        handles: One handle per worker, in order.
        deadline_seconds: Longest time that a layer may show no progress.
        lossy: Whether a codec of the run rounds, so that the two ends of a boundary may differ.
        steps: How many updates the run makes; None to leave that unchecked.
        before: What the links had carried before the step with which the run goes on.

    Attributes:
        errors: What went wrong, by layer, once ``train`` has failed; of a whole worker, by its lowest layer.
    """

    def __init__(
        self,
        handles: Sequence[Handle],
        *,
        deadline_seconds: float,
        lossy: bool = False,
        steps: int | None = None,
        before: Mapping[tuple[Link, Kind], Traffic] | None = None,
    ) -> None:
        self._before = dict(before or {})
        self._barrier = Barrier(sum(len(handle.layers) for handle in handles))
        self._books = Books(len({layer for handle in handles for layer in handle.layers}), lossy=lossy)
        self._steps, self._steps_seen = steps, 0
        self._handles = handles
        self._deadline_seconds = deadline_seconds
        self._polls: dict[int, Future[WorkerStatus]] = {}  # by worker, as the next two
        self._heard: dict[int, float] = {}
        self._workers: dict[int, WorkerStatus] = {}
        self._status: dict[tuple[int, int], LayerStatus] = {}  # by layer and replica
        self.errors: dict[int, str] = {}

    @property
    def status(self) -> dict[int, LayerStatus]:
        """The last status of each layer; of its first replica, where there are several."""
        return {layer: status for (layer, replica), status in self._status.items() if not replica}

    @property
    def workers(self) -> dict[int, WorkerStatus]:
        """The last status of each worker."""
        return self._workers

    def connect(self, addresses: dict[int, str], deadline_seconds: float) -> None:
        """Let every worker open its streams.

        Args:
            addresses: Worker -> address.
            deadline_seconds: Longest wait for each stream.

        Raises:
            DistfaError: A worker could not reach another.
        """
        self.gather("connect", addresses, deadline_seconds, deadline_seconds=2 * deadline_seconds)

    def gather(self, method: str, *args: object, deadline_seconds: float) -> list[Any]:
        """Call one method of every worker; returns their answers, in order.

        Raises:
            LayerLost: A worker did not answer in time; the message names it.
            DistfaError: A worker raised an error; of several, that of the lowest.
        """
        futures = [handle.call(method, *args) for handle in self._handles]
        _, late = wait(futures, timeout=deadline_seconds)
        for handle, future in zip(self._handles, futures, strict=True):
            if future not in late and (error := future.exception()) is not None:
                raise self._locate(handle, error)
        for handle, future in zip(self._handles, futures, strict=True):
            if future in late:
                raise LayerLost(f"{handle} did not answer {method!r} within {deadline_seconds:.0f} s")
        return [future.result() for future in futures]

    def train(self, tick: Callable[[], None] = lambda: None) -> Iterator[Record]:
        """Run every layer to the end; yields the records as they come.

        Args:
            tick: Called repeatedly, also while no record comes.

        A run has ended well when every layer has ended well, each has handed out all it had to report, no step is
        missing in the reports, and everything in the books has its other end.

        Raises:
            DistfaError: The run failed; one message names the layer, the step and the cause.
        """
        runs = {handle.worker: handle.call("run") for handle in self._handles}
        now = time.monotonic()
        self._heard = dict.fromkeys(runs, now)
        while True:
            running = [future for future in runs.values() if not future.done()]
            if running:
                wait(running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            yield from self._poll()
            tick()
            if any(run.done() and run.exception() is not None for run in runs.values()):
                yield from self._settle(runs)
                raise self._cause(runs)
            if not running:
                yield from self._drain()
                return
            if (stuck := self._stuck()) is not None:
                raise stuck

    def state(self) -> dict[str, Tensor]:
        """All weights, under the keys of the user's model."""
        parts = self.gather("state", deadline_seconds=_STATE_SECONDS)
        return {key: value for part in parts for key, value in part.items()}

    def traffic(self) -> dict[tuple[Link, Kind], Traffic]:
        """The traffic of every link so far, according to the last status of each layer."""
        found = self._before
        for status in self._status.values():
            found = _add(found, status.traffic)
        return found

    @property
    def books(self) -> Books:
        """The books of the run."""
        return self._books

    def snapshot(self, layer: int, step: int) -> Snapshot | None:
        """The state of a layer at the cut before ``step``, with the traffic it has sent in all; None if that is gone.

        Raises:
            LayerError: The layer did not answer in time.
            DistfaError: The layer raised this error.
        """
        handle = next(handle for handle in self._handles if layer in handle.layers)
        try:
            found: Snapshot | None = handle.call("snapshot", layer, step).result(self._deadline_seconds)
        except TimeoutError as exc:
            self.errors[layer] = (
                f"layer {layer} did not return its state within {self._deadline_seconds:.0f} s (wire.deadline_seconds)"
            )
            raise LayerError(self.errors[layer]) from exc
        except DistfaError as exc:
            raise self._locate(handle, exc) from exc
        if found is None:
            return None
        before = {key: sent for key, sent in self._before.items() if key[0].sender == layer}
        return replace(found, traffic=_add(before, found.traffic))

    def _poll(self) -> Iterator[Record]:
        """Take the answers that have come, and ask those workers again."""
        for handle in self._handles:
            poll = self._polls.get(handle.worker)
            if poll is not None and not poll.done():
                continue
            if poll is not None and poll.exception() is None:
                yield from self._hear(poll.result())
            self._polls[handle.worker] = handle.call("status")

    def _hear(self, status: WorkerStatus) -> Iterator[Record]:
        """Take one worker's answer."""
        self._heard[status.worker] = time.monotonic()
        self._workers[status.worker] = status
        for layer in status.layers:
            self._status[layer.layer, layer.replica] = layer
            for entry in self._barrier.add((layer.layer, layer.replica), layer.entries):
                self._steps_seen += isinstance(entry, StepRecord)
                yield from self._books.add(entry)

    def _drain(self) -> Iterator[Record]:
        """After a good end: take all that the layers still have to report, each answer within the deadline.

        Raises:
            LayerLost: A layer did not answer in time.
            LayerError: Something is missing in the reports.
        """
        wait([*self._polls.values()], timeout=self._deadline_seconds)
        for poll in self._polls.values():
            if poll.done() and poll.exception() is None:
                yield from self._hear(poll.result())
        self._polls = {}
        for status in self.gather("status", deadline_seconds=self._deadline_seconds):
            yield from self._hear(status)
        if missing := self._books.unmatched():
            raise LayerError(
                f"the run ended, but the other end of {missing[0]} is missing"
                + (f" (and {len(missing) - 1} more like it)" if len(missing) > 1 else "")
                + ": a report was lost between a layer and the coordinator, so the books cannot be trusted"
            )
        if self._steps is not None and self._steps_seen != self._steps:
            raise LayerError(
                f"the run ended, but only {self._steps_seen} of its {self._steps} steps were reported: a report "
                "was lost between a layer and the coordinator, so losses and accuracies cannot be trusted"
            )

    def _settle(self, runs: dict[int, Future[None]]) -> Iterator[Record]:
        """After a failure: give every layer time to report what it can: the poll in progress, and one more."""
        known = any(run.done() and isinstance(run.exception(), LayerLost) for run in runs.values())
        give_up = time.monotonic() + (_KNOWN_SECONDS if known else _GRACE_SECONDS)
        for _ in range(2):
            wait([*self._polls.values()], timeout=max(0.0, give_up - time.monotonic()))
            yield from self._poll()
        wait([*self._polls.values()], timeout=max(0.0, give_up - time.monotonic()))
        yield from self._poll()
        wait([*runs.values()], timeout=max(0.0, give_up - time.monotonic()))

    def _stuck(self) -> DistfaError | None:
        """A layer that hangs and that no other layer has noticed, or can notice."""
        limit = self._deadline_seconds + 2.0
        found = self._silent(limit) or self._find_hung_layer(limit)
        return None if found is None else type(found)(f"{found}{self._waits()}")

    def _waits(self) -> str:
        """Who waits for whom, beginning with the layer that nobody waits for."""
        waits = {layer: status.waiting_for_layer for (layer, _), status in self._status.items() if status.waiting_for}
        chain = [f"layer {layer} waits for layer {other}" for layer, other in sorted(waits.items()) if other]
        return f" ({', '.join(chain)})" if chain else ""

    def _cause(self, runs: dict[int, Future[None]]) -> BaseException:
        """The failure that caused the others.

        A dead process, or an error in a layer itself, comes first. Then comes a layer that hangs, then the layer that
        missed a signal first, and last those that only lost another layer.
        """
        failed = [(handle, run.exception()) for handle in self._handles if (run := runs[handle.worker]).done()]
        errors = [self._locate(handle, error) for handle, error in failed if error is not None]
        own = [e for e in errors if not isinstance(e, PeerLost | DeadlineExceeded)]
        if own:
            return min(own, key=lambda e: not isinstance(e, LayerLost))
        missed = [e for e in errors if isinstance(e, DeadlineExceeded)]
        if not missed:
            return errors[0]
        half = self._deadline_seconds / 2
        return self._silent(half) or self._find_hung_layer(half) or min(missed, key=lambda e: e.order)

    def _locate(self, handle: Handle, error: BaseException) -> BaseException:
        """The error with its place: a lost process or stream cannot say at which step it was; the coordinator can."""
        if isinstance(error, LayerLost | PeerLost):
            error = type(error)(f"{self._at(handle, process=isinstance(error, LayerLost))}: {error}")
        self.errors[handle.layers[0]] = str(error)
        return error

    def _at(self, handle: Handle, *, process: bool) -> str:
        """The worker, with its step and the process to look at as far as they are known."""
        if (found := self._workers.get(handle.worker)) is None:
            return str(handle)
        step = max(layer.step for layer in found.layers)
        return f"{handle}, step {step}" + (f" (process {found.pid} on {found.host})" if process else "")

    def _silent(self, limit_seconds: float) -> DistfaError | None:
        now = time.monotonic()
        for handle in self._handles:
            silence = now - self._heard[handle.worker]
            if silence > limit_seconds and not self._polls[handle.worker].done():
                said = (
                    f"{self._at(handle, process=True)}: its process has not answered for {silence:.0f} s; it "
                    "is stopped or starved: check that process and its node, or raise wire.deadline_seconds"
                )
                self.errors[handle.layers[0]] = said
                return LayerLost(said)
        return None

    def _find_hung_layer(self, limit_seconds: float) -> DistfaError | None:
        """A layer that waits for nobody and still makes no progress."""
        for (layer, _), status in self._status.items():
            if not status.finished and not status.waiting_for and status.since_seconds > limit_seconds:
                self.errors[layer] = (
                    f"layer {layer}, step {status.step}: it has been computing for {status.since_seconds:.0f} s; "
                    "it hangs, or its node is too slow: raise wire.deadline_seconds if such steps are expected"
                )
                return LayerLost(self.errors[layer])
        return None


def _add(
    before: Mapping[tuple[Link, Kind], Traffic], more: Mapping[tuple[Link, Kind], Traffic]
) -> dict[tuple[Link, Kind], Traffic]:
    """The sum of both, per link and kind."""
    return {key: before.get(key, Traffic()) + more.get(key, Traffic()) for key in {**before, **more}}


def bytes_apart(traffic: dict[tuple[Link, Kind], Traffic]) -> dict[str, int]:
    """Bytes of whole messages that are not training traffic, by kind."""
    apart = {kind.value: 0 for kind in Kind if not kind.is_training}
    for (_, kind), counted in traffic.items():
        if not kind.is_training:
            apart[kind.value] += counted.message_bytes
    return apart


def boundary_bytes(
    traffic: Mapping[tuple[Link, Kind], Traffic], boundaries: range, sharing: Mapping[int, Sequence[int]] = _NOBODY
) -> list[dict[str, Any]]:
    """Training bytes per boundary: payload and whole messages, up and down, and those inside a worker.

    After those of the boundaries come rows for errors that cross once for several layers of a worker, where
    ``boundary`` is the lowest of these layers, and ``shared`` has all; then rows for what the replicas of a layer send
    each other, counted as down, where ``boundary`` is the layer, and ``beside`` is True.

    Args:
        traffic: What every link has carried.
        boundaries: All of the network.
        sharing: The layers that get the same errors, by the lowest of them.
    """
    apart = sorted({(_APART.index(l.direction), l.boundary) for l, _ in traffic if l.direction in _APART})
    table: dict[tuple[int, Direction | None], dict[str, Any]] = {}
    for boundary, way in [*((b, None) for b in boundaries), *((b, _APART[index]) for index, b in apart)]:
        row = {"boundary": boundary, "up_payload": 0, "down_payload": 0, "up_message": 0, "down_message": 0}
        table[boundary, way] = row | {"inside": 0}
        if way is Direction.SHARED:
            table[boundary, way]["shared"] = list(sharing.get(boundary, [boundary]))
        elif way is Direction.BESIDE:
            table[boundary, way]["beside"] = True
    for (link, kind), counted in traffic.items():
        row = table.get((link.boundary, link.direction if link.direction in _APART else None), {})
        if row and kind.is_training:
            arrow = "up" if link.direction.is_up else "down"
            row[f"{arrow}_payload"] += counted.payload_bytes
            row[f"{arrow}_message"] += counted.message_bytes
            row["inside"] += counted.inside_bytes
    return list(table.values())
