"""A worker's ends of the links of all its layers: on the wire, and from one of its layers to another.

layers 1 2 3 | 4 5 6        a link inside a worker    the tensor itself, as the codec would round it
                            a link between workers    a stream of messages
                            the same error for 1 2 3  one stream, whose messages are handed to all three
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import chain
from threading import Event
from typing import Any

import torch
from torch import Tensor

from distfa.codecs import LOSSLESS, carry, resolve
from distfa.core import rules
from distfa.core.requests import Give, Request, Take
from distfa.core.routes import Direction, Kind, Link, replica_links
from distfa.runtime.job import Job
from distfa.transport.base import Tap, Transport
from distfa.transport.inbox import Inbox
from distfa.transport.message import identify_message
from distfa.transport.port import InPort, OutPort, Traffic


def streams(job: Job) -> dict[Link, Link]:
    """The stream that carries each link between two workers: its own, or one for all that carry the same errors."""
    found: dict[Link, Link] = {}
    alike: dict[tuple[int, int], list[Link]] = {}
    same = rules.build_rule(job.recipe).sends_the_same
    for link in replica_links(job.recipe):
        there = job.worker_of(link.receiver, link.receiving_replica)
        if there == job.worker_of(link.sender, link.replica):
            continue
        found[link] = link
        if same and link.direction is Direction.DOWN:
            alike.setdefault((link.sender, there), []).append(link)
    for group in alike.values():
        if len(group) > 1:
            lowest = min(group, key=lambda link: link.boundary)
            found |= dict.fromkeys(group, replace(lowest, direction=Direction.SHARED))
    return found


def sharing(job: Job) -> dict[int, list[int]]:
    """The layers that share a stream of errors, by the lowest of them."""
    found: dict[int, list[int]] = {}
    for link, stream in streams(job).items():
        if stream.direction is Direction.SHARED and not link.replica:
            found.setdefault(stream.boundary, []).append(link.boundary)
    return found


class WorkerPorts:
    """The ends of all links of the layers that a worker hosts.

    Nothing here waits: whether a request can be carried out is asked first (``gate``).

    Args:
        job: The run.
        worker: Which worker, counted from 1.
        device: The device of its signals.
        tap: Sees every message that the worker sends.

    Attributes:
        changed: Set whenever something may have become ready.
    """

    def __init__(self, job: Job, worker: int, device: torch.device, tap: Tap | None) -> None:
        self._job, self._device, self._tap = job, device, tap
        self.changed = Event()
        replica = job.replica_of(worker)
        own = {(layer, replica) for layer in job.hosted[worker - 1]}
        mine = [link for link in replica_links(job.recipe) if own & {_sender(link), _receiver(link)}]
        self._streams = streams(job)
        between = [link for link in mine if link in self._streams]
        self._incoming = list(dict.fromkeys(self._streams[link] for link in between if _receiver(link) in own))
        self._outgoing = list(dict.fromkeys(self._streams[link] for link in between if _sender(link) in own))
        self._in: dict[Link, InPort] = {}
        self._out: dict[Link, OutPort] = {}
        # Signals on their way inside the worker, and those of shared streams that have been handed out to every layer.
        # The latter need no bound: no layer is further ahead of another than the schedule lets it be.
        self._inside: dict[Link, deque[Tensor]] = {link: deque() for link in mine if link not in self._streams}
        self._sharing: dict[Link, list[deque[Tensor]]] = defaultdict(list)  # by stream
        for link in between:
            if _receiver(link) in own and (stream := self._streams[link]).direction is Direction.SHARED:
                self._inside[link] = deque()
                self._sharing[stream].append(self._inside[link])
        self._handed_over = defaultdict[tuple[Link, Kind], Traffic](Traffic)
        self._codecs = {direction: job.codec(direction) for direction in Direction}

    def listen(self, transport: Transport) -> str:
        """Accept signals from ``transport``; returns this worker's address."""
        wire, job = self._job.wire, self._job
        for link in self._incoming:
            inbox = Inbox(link, run_id=job.run_id, window=wire.window, max_payload_bytes=wire.max_payload_bytes)
            inbox.watch(arrived=self.changed.set)
            self._in[link] = InPort(
                link=link,
                run_id=job.run_id,
                codec=job.codec(link.direction),
                exact_codec=resolve(LOSSLESS, job.dtype_of(link)),
                inbox=inbox,
                dtype=job.dtype_of(link),
                device=self._device,
                wire=wire,
            )
        return transport.listen([port.inbox for port in self._in.values()])

    def connect(self, transport: Transport, addresses: Mapping[int, str], deadline_seconds: float) -> None:
        """Open a stream by ``transport`` to every worker that this one sends to; ``addresses`` are by worker."""
        job = self._job
        for link in self._outgoing:
            address = addresses[job.worker_of(link.receiver, link.receiving_replica)]
            self._out[link] = OutPort(
                link=link,
                run_id=job.run_id,
                codec=job.codec(link.direction),
                exact_codec=resolve(LOSSLESS, job.dtype_of(link)),
                sender=transport.connect(link, address, deadline_seconds, self.changed.set),
                wire=job.wire,
                tap=self._tap,
            )

    def gate(self, request: Request) -> Callable[[], Any]:
        """Tells whether the signal that is asked for is there, or there is room for the one to be sent.

        It is asked for every layer before every piece of work, so it looks nothing up.
        """
        inside, stream = self._inside.get(request.link), self._streams.get(request.link)
        if isinstance(request, Take):
            if stream is None:
                return self._inside[request.link].__len__
            port = self._in[stream]
            return (lambda: port.ready) if inside is None else (lambda: inside or port.ready)
        if stream is None:
            waiting, window = self._inside[request.link], self._job.wire.window
            return lambda: len(waiting) < window
        if self._goes_along(request.link, stream):
            return lambda: True
        out = self._out[stream]
        return lambda: out.has_room

    def take(self, request: Take, waited_seconds: float = 0.0) -> Tensor:
        """The signal that is asked for; raises as ``InPort.receive``."""
        if inside := self._inside.get(request.link):
            return inside.popleft()
        stream = self._streams[request.link]
        signal = self._in[stream].receive(
            kind=request.kind,
            step=request.step,
            micro_batch=request.micro_batch,
            rows=request.rows,
            waited_seconds=waited_seconds,
        )
        if inside is None:
            return signal
        for waiting in self._sharing[stream]:  # all layers that share it find it when they come to it
            waiting.append(signal)
        return inside.popleft()

    def give(self, request: Give, waited_seconds: float = 0.0) -> None:
        """Send the signal; raises as ``OutPort.send``."""
        link, kind, step, micro_batch, signal = request
        stream = self._streams.get(link)
        if stream is None:
            self._hand_over(link, kind, signal)
        elif not self._goes_along(link, stream):
            self._out[stream].send(signal, kind=kind, step=step, micro_batch=micro_batch, waited_seconds=waited_seconds)

    def seen(self, link: Link, signal: Tensor) -> Tensor:
        """A training signal as the receiver should see it."""
        if link.direction is Direction.RENEWAL:
            return signal
        return carry(self._codecs[link.direction], signal.flatten(1))

    def is_inside(self, request: Request) -> bool:
        """Whether it is for a signal between two layers of this worker."""
        return request.link not in self._streams

    def describe(self, request: Request) -> tuple[str, int]:
        """The signal that the request waits for, in words, and the layer it waits for."""
        link = request.link
        who = identify_message(link, self._job.run_id, request.kind, request.step, request.micro_batch)
        return (str(who), link.sender) if isinstance(request, Take) else (f"room to send the {who}", link.receiver)

    def traffic(self) -> dict[int, dict[tuple[Link, Kind], Traffic]]:
        """The traffic that each layer has sent so far."""
        found: dict[int, dict[tuple[Link, Kind], Traffic]] = defaultdict(dict)
        sent = ((link, kind, counted) for link, port in self._out.items() for kind, counted in port.traffic.items())
        inside = ((link, kind, counted) for (link, kind), counted in list(self._handed_over.items()))
        for link, kind, counted in chain(sent, inside):
            found[link.sender][link, kind] = counted
        return found

    def queues(self) -> Counter[int]:
        """How many signals have arrived at each layer and are waiting."""
        arrived = Counter[int]()
        for link, waiting in self._inside.items():
            arrived[link.receiver] += len(waiting)
        for link, port in self._in.items():
            arrived[link.receiver] += port.inbox.queue
        return arrived

    def close(self) -> None:
        """Wait until everything that was sent is received, then end the streams."""
        for port in self._out.values():
            port.close()

    def _goes_along(self, link: Link, stream: Link) -> bool:
        """Whether another link of its stream carries the same signal: the lowest, whose turn comes first."""
        return stream.direction is Direction.SHARED and link.boundary != stream.boundary

    def _hand_over(self, link: Link, kind: Kind, signal: Tensor) -> None:
        """Give a signal to another layer of this worker, with the numbers and the strides that the wire would give."""
        flat = signal.detach().contiguous().flatten(1)
        if not kind.is_exact:
            flat = carry(self._codecs[link.direction], flat)
        self._inside[link].append(flat.view(signal.shape))
        self._handed_over[link, kind].inside_bytes += flat.nbytes


def _sender(link: Link) -> tuple[int, int]:
    """(layer, replica) that sends."""
    return link.sender, link.replica


def _receiver(link: Link) -> tuple[int, int]:
    return link.receiver, link.receiving_replica
