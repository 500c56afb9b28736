"""A transport inside one process: the same bytes, the same inboxes, no network. For tests."""

from __future__ import annotations

from collections.abc import Callable

from distfa.errors import DeadlineExceeded
from distfa.transport.inbox import Inbox
from distfa.transport.message import Link


class Switchboard:
    """Connects the loopback transports of one run: address -> inboxes."""

    def __init__(self) -> None:
        self._inboxes: dict[str, dict[Link, Inbox]] = {}

    def add(self, inboxes: list[Inbox]) -> str:
        """Make a new address for these inboxes."""
        address = f"loopback:{len(self._inboxes)}"
        self._inboxes[address] = {inbox.link: inbox for inbox in inboxes}
        return address

    def find(self, address: str, link: Link) -> Inbox:
        """The inbox of ``link`` at ``address``."""
        if address not in self._inboxes or link not in self._inboxes[address]:
            raise DeadlineExceeded(f"layer {link.sender} found no receiver at {address!r} for {link}")
        return self._inboxes[address][link]


class LoopbackTransport:
    """One layer's end of a switchboard."""

    def __init__(self, switchboard: Switchboard) -> None:
        self._switchboard = switchboard
        self._inboxes: list[Inbox] = []

    def listen(self, inboxes: list[Inbox]) -> str:
        """Accept signals for these inboxes."""
        self._inboxes = inboxes
        return self._switchboard.add(inboxes)

    def connect(
        self, link: Link, address: str, deadline_seconds: float, changed: Callable[[], None] = lambda: None
    ) -> LoopbackSender:
        """Open the stream of ``link``."""
        inbox = self._switchboard.find(address, link)
        inbox.watch(has_room=changed)
        return LoopbackSender(inbox)

    def close(self) -> None:
        """Stop listening."""
        for inbox in self._inboxes:
            inbox.close()


class LoopbackSender:
    """Delivers straight into the receiver's inbox."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    @property
    def has_room(self) -> bool:
        """Whether the window has."""
        return self._inbox.has_room

    def send(self, data: bytes, deadline_seconds: float, *, waited_seconds: float = 0.0) -> None:
        """Deliver; waits while the window is full."""
        self._inbox.deliver(data)

    def close(self, deadline_seconds: float) -> None:
        """Do nothing: no message is in transit."""
