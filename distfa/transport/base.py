"""What a transport is: streams of serialized signals between layers, whatever carries them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from distfa.transport.inbox import Inbox
from distfa.transport.message import Link

Tap = Callable[[Link, bytes], None]
"""Sees every serialized message a layer sends; for tests and tracing."""


class Sender(Protocol):
    """The sending end of one link."""

    def send(self, data: bytes, deadline_seconds: float) -> None:
        """Hand over one serialized signal; waits while the receiver's window is full.

        Raises:
            DeadlineExceeded: The receiver took nothing for ``deadline_seconds``.
            TransportError: The stream broke, or the receiver refused a message.
        """
        ...

    def close(self, deadline_seconds: float) -> None:
        """Wait until everything sent was received, then end the stream; errors as ``send``."""
        ...


class Transport(Protocol):
    """One layer's end of the wire."""

    def listen(self, inboxes: list[Inbox]) -> str:
        """Take in signals for these inboxes; returns the address other layers connect to.

        Raises:
            TransportError: The address cannot be listened on.
        """
        ...

    def connect(self, link: Link, address: str, deadline_seconds: float) -> Sender:
        """Open the stream of ``link`` to its receiver at ``address``.

        Raises:
            DeadlineExceeded: Nobody answered there in time.
        """
        ...

    def close(self) -> None:
        """Stop listening and drop every stream, at once."""
        ...


@dataclass(frozen=True, kw_only=True)
class WireConfig:
    """How layers talk.

    Attributes:
        host: Address to listen on; empty in a spec until it is known where the layers are.
        ports: Range the layers listen in, ``20000-20100``; empty lets the system choose.
        window: Signals that may wait at each end of a link.
        max_message_mib: Longest message, in MiB, enforced at both ends.
        deadline_seconds: Longest wait for any one signal.
        checksum: Whether payloads carry a CRC-32C.
    """

    host: str = "127.0.0.1"
    ports: str = ""
    window: int = 4
    max_message_mib: int = 256
    deadline_seconds: float = 20.0
    checksum: bool = True

    @property
    def max_payload_bytes(self) -> int:
        """Longest payload accepted."""
        return self.max_message_mib * 2**20
