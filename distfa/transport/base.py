"""The interface of a transport: it carries streams of serialized signals between layers, by whatever means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from annotated_types import Ge, Gt, Le

from distfa.transport.address import port_range
from distfa.transport.inbox import Inbox
from distfa.transport.message import Link

Tap = Callable[[Link, bytes], None]
"""Sees every serialized message a layer sends; for tests and tracing."""


class Sender(Protocol):
    """The sending end of one link."""

    @property
    def has_room(self) -> bool:
        """Whether ``send`` would return, or fail, at once."""

    def send(self, data: bytes, deadline_seconds: float, *, waited_seconds: float = 0.0) -> None:
        """Hand over one serialized signal; waits while the receiver's window is full.

        Args:
            data: The signal.
            deadline_seconds: How long to wait.
            waited_seconds: How much of that is over already.

        Raises:
            DeadlineExceeded: The receiver took nothing for ``deadline_seconds``.
            TransportError: The stream broke, or the receiver refused a message.
        """

    def close(self, deadline_seconds: float) -> None:
        """Wait until everything that was sent is received, then end the stream; raises as ``send`` does."""


class Transport(Protocol):
    """One layer's end of the wire."""

    def listen(self, inboxes: list[Inbox]) -> str:
        """Accept signals for these inboxes; returns the address that other layers connect to.

        Raises:
            TransportError: The address cannot be listened on.
        """

    def connect(
        self, link: Link, address: str, deadline_seconds: float, changed: Callable[[], None] = lambda: None
    ) -> Sender:
        """Open the stream of ``link`` to its receiver at ``address``.

        Args:
            link: The link.
            address: What the receiver's ``listen`` returned.
            deadline_seconds: Longest wait for an answer.
            changed: Called whenever the sender may have room again; it must not block.

        Raises:
            DeadlineExceeded: Nobody answered there in time.
        """

    def close(self) -> None:
        """Stop listening and drop every stream, at once."""


@dataclass(frozen=True, kw_only=True)
class WireConfig:
    """How layers communicate.

    Attributes:
        host: Address to listen on; empty: loopback, or each node's address across nodes; 0.0.0.0: all, with TLS.
        ports: Range of the ports that layers listen on, such as 20000-20100, for firewalls; empty: the system chooses.
        window: Signals that may wait at each end of a boundary.
        max_message_mib: Longest message in MiB, at both ends.
        deadline_seconds: Longest wait for one signal.
        delay_ms: Delay every message by this many milliseconds at its sender, as on a long link, to see what distance
            costs; 0 for real work. At most ``window`` messages are in transit on a link.
        checksum: Whether payloads carry a CRC-32C.
        security: ``auto``: plain text on loopback, mutual TLS wherever others can reach a layer; ``tls``;
            ``insecure``.

    Raises:
        ValueError: ``ports`` is not a range of ports.
    """

    host: str = ""
    ports: str = ""
    window: Annotated[int, Ge(1)] = 4
    max_message_mib: Annotated[int, Ge(1), Le(2047)] = 256
    deadline_seconds: Annotated[float, Gt(0)] = 20.0
    delay_ms: Annotated[float, Ge(0), Le(1000)] = 0.0
    checksum: bool = True
    security: Literal["auto", "tls", "insecure"] = "auto"

    def __post_init__(self) -> None:
        port_range(self.ports)

    @property
    def max_payload_bytes(self) -> int:
        """Bytes of the longest payload that is accepted."""
        return self.max_message_mib * 2**20
