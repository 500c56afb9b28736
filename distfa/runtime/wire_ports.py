"""A layer's ends of its links, as ``Steps`` uses them, on the wire."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from distfa.codecs import LOSSLESS, carry, resolve
from distfa.core.routes import Direction, Kind, Link, links
from distfa.runtime.job import Job
from distfa.transport.base import Tap, Transport
from distfa.transport.inbox import Inbox
from distfa.transport.port import InPort, OutPort, Traffic, Waiting


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
