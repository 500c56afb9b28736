"""Ports: a layer's ends of its links, where signals become messages and messages become signals."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from distfa.codecs import Codec
from distfa.codecs.staging import to_device
from distfa.errors import DeadlineExceeded, MessageRefused
from distfa.transport import serde
from distfa.transport.base import Sender, Tap, WireConfig
from distfa.transport.inbox import Inbox
from distfa.transport.message import Direction, Identity, Kind, Link, Message, identify_message

GRPC_FRAME_BYTES = 5  # compression flag and length before every gRPC message


@dataclass(kw_only=True)
class Traffic:
    """The traffic of one link for one kind of signal; the counts only grow.

    Attributes:
        messages: Number of signals.
        payload_bytes: Bytes of their encoded numbers.
        message_bytes: Bytes of the whole gRPC messages with their frames; HTTP/2, TCP and IP add more below that.
    """

    messages: int = 0
    payload_bytes: int = 0
    message_bytes: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            messages=self.messages + other.messages,
            payload_bytes=self.payload_bytes + other.payload_bytes,
            message_bytes=self.message_bytes + other.message_bytes,
        )


@dataclass(kw_only=True)
class Waiting:
    """The wait of a layer now, and how long it has waited in total.

    Attributes:
        what: In words; empty while the layer computes.
        layer: The layer it waits for.
        since: ``time.monotonic`` when the wait began.
        ended: ``time.monotonic`` when the last wait ended.
        total_seconds: Over all waits so far.
    """

    what: str = ""
    layer: int = 0
    since: float = 0.0
    ended: float = 0.0
    total_seconds: float = 0.0

    def start(self, what: str, layer: int) -> None:
        """Start a wait."""
        self.what, self.layer, self.since = what, layer, time.monotonic()

    def end(self) -> None:
        """End the wait that began last."""
        self.ended = time.monotonic()
        self.total_seconds += self.ended - self.since
        self.what = ""


@dataclass(kw_only=True)
class _Port:
    """An end of a link."""

    link: Link
    run_id: str
    codec: Codec
    exact_codec: Codec
    wire: WireConfig
    waiting: Waiting


@dataclass(kw_only=True)
class OutPort(_Port):
    """The sending end of a link."""

    sender: Sender
    tap: Tap | None = None
    traffic: dict[Kind, Traffic] = field(default_factory=lambda: {kind: Traffic() for kind in Kind})

    def send(self, signal: Tensor, *, kind: Kind, step: int, micro_batch: int) -> None:
        """Encode and send one signal, shape (rows, *link.shape).

        Raises:
            MessageRefused: It is longer than the wire allows.
            TransportError: As ``Sender.send``.
        """
        who = identify_message(self.link, self.run_id, kind, step, micro_batch)
        codec = self.exact_codec if kind.is_exact else self.codec
        flat = signal.flatten(1)
        rows, columns = flat.shape
        if (length := codec.max_payload_bytes(rows, columns, signal.dtype)) > self.wire.max_payload_bytes:
            raise MessageRefused(
                f"layer {self.link.sender} cannot send the {who}: its payload may have {length} bytes, more than "
                f"the {self.wire.max_payload_bytes} allowed; raise wire.max_message_mib or use more micro-batches"
            )
        payload = codec.encode(flat)
        data = serde.message_to_bytes(
            Message(
                identity=who,
                dtype=signal.dtype,
                shape=tuple(signal.shape),
                codec=codec.name,
                checksum=serde.checksum(payload) if self.wire.checksum else None,
                payload=payload,
            )
        )
        if self.tap is not None:
            self.tap(self.link, data)
        self.waiting.start(f"room to send the {who}", self.link.receiver)
        self.sender.send(data, self.wire.deadline_seconds)
        self.waiting.end()  # a wait that failed is not ended, so that one can see whom it was for
        traffic = self.traffic[kind]
        traffic.messages += 1
        traffic.payload_bytes += payload.nbytes
        traffic.message_bytes += len(data) + GRPC_FRAME_BYTES

    def close(self) -> None:
        """Wait until everything is received, then end the stream."""
        self.waiting.start(f"layer {self.link.receiver} to take the last signal {self.link}", self.link.receiver)
        self.sender.close(self.wire.deadline_seconds)
        self.waiting.end()


@dataclass(kw_only=True)
class InPort(_Port):
    """The receiving end of a link: takes the one signal the schedule expects, and no other."""

    inbox: Inbox
    dtype: torch.dtype
    device: torch.device

    def receive(self, *, kind: Kind, step: int, micro_batch: int, rows: int) -> Tensor:
        """The signal with that identity, shape (rows, *link.shape).

        Raises:
            MessageRefused: Another signal came, or it has the wrong shape, dtype, codec or payload.
            DeadlineExceeded: Nothing came in time.
            TransportError: The link failed.
        """
        expected = identify_message(self.link, self.run_id, kind, step, micro_batch)
        self.waiting.start(str(expected), self.link.sender)
        try:
            message = self.inbox.take(self.wire.deadline_seconds, str(expected))
        except DeadlineExceeded as exc:
            exc.order = self._order(step)
            raise
        self.waiting.end()
        codec, shape = self.exact_codec if kind.is_exact else self.codec, (rows, *self.link.shape)
        self._refuse_other(message, expected, codec, shape)
        try:
            signal = codec.decode(message.payload, rows, self.link.columns, self.dtype)
        except ValueError as exc:
            raise MessageRefused(f"{self._describe_refused(message, expected)}: {exc}") from exc
        return to_device(signal, self.device).view(shape)

    def _order(self, step: int) -> tuple[int, ...]:
        """Within a step, signals flow up all boundaries, then down, then probes."""
        way = list(Direction).index(self.link.direction)
        return (step, way, self.link.boundary if self.link.direction.is_up else -self.link.boundary)

    def _refuse_other(self, got: Message, expected: Identity, codec: Codec, shape: tuple[int, ...]) -> None:
        checks = (
            (got.identity, expected, "a message was lost, repeated or reordered"),
            (got.shape, shape, "the two ends disagree about the network or the batch"),
            (got.dtype, self.dtype, "the two ends disagree about the dtype"),
            (got.codec, codec.name, "the two ends disagree about the codec"),
        )
        for found, wanted, meaning in checks:
            if found != wanted:
                raise MessageRefused(
                    f"{self._describe_refused(got, expected)}: got {found}, expected {wanted}; {meaning}"
                )
        if self.wire.checksum and got.checksum is None:
            raise MessageRefused(
                f"{self._describe_refused(got, expected)}: it has no checksum, but the run requires one"
            )

    def _describe_refused(self, got: Message, expected: Identity) -> str:
        return f"layer {self.link.receiver}, step {expected.step}, refused the {got.identity}"
