"""Ports: a layer's ends of its links, where signals become messages and messages become signals."""

from __future__ import annotations

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
        inside_bytes: Bytes of signals between two layers of one worker, which no message carries.
    """

    messages: int = 0
    payload_bytes: int = 0
    message_bytes: int = 0
    inside_bytes: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(**{name: count + getattr(other, name) for name, count in vars(self).items()})


@dataclass(kw_only=True)
class _Port:
    """An end of a link."""

    link: Link
    run_id: str
    codec: Codec
    exact_codec: Codec
    wire: WireConfig


@dataclass(kw_only=True)
class OutPort(_Port):
    """The sending end of a link."""

    sender: Sender
    tap: Tap | None = None
    traffic: dict[Kind, Traffic] = field(default_factory=lambda: {kind: Traffic() for kind in Kind})

    @property
    def has_room(self) -> bool:
        """Whether ``send`` would not have to wait."""
        return self.sender.has_room

    def send(self, signal: Tensor, *, kind: Kind, step: int, micro_batch: int, waited_seconds: float = 0.0) -> None:
        """Encode and send one signal, shape (rows, *link.shape), which has waited for room so long already.

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
        self.sender.send(data, self.wire.deadline_seconds, waited_seconds=waited_seconds)
        traffic = self.traffic[kind]
        traffic.messages += 1
        traffic.payload_bytes += payload.nbytes
        traffic.message_bytes += len(data) + GRPC_FRAME_BYTES

    def close(self) -> None:
        """Wait until everything is received, then end the stream."""
        self.sender.close(self.wire.deadline_seconds)


@dataclass(kw_only=True)
class InPort(_Port):
    """The receiving end of a link: takes the one signal the schedule expects, and no other."""

    inbox: Inbox
    dtype: torch.dtype
    device: torch.device

    @property
    def ready(self) -> bool:
        """Whether ``receive`` would not have to wait."""
        return self.inbox.ready

    def receive(self, *, kind: Kind, step: int, micro_batch: int, rows: int, waited_seconds: float = 0.0) -> Tensor:
        """The signal with that identity, shape (rows, *link.shape), which has been waited for so long already.

        Raises:
            MessageRefused: Another signal came, or it has the wrong shape, dtype, codec or payload.
            DeadlineExceeded: Nothing came in time.
            TransportError: The link failed.
        """
        expected = identify_message(self.link, self.run_id, kind, step, micro_batch)
        try:
            message = self.inbox.take(self.wire.deadline_seconds, expected, waited_seconds=waited_seconds)
        except DeadlineExceeded as exc:
            exc.order = self._order(step)
            raise
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
