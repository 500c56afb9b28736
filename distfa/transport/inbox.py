"""Where a layer's incoming signals wait: one bounded queue per link, which can also carry an error."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from distfa.errors import DeadlineExceeded, DistfaError, MessageRefused, TransportError
from distfa.transport import serde
from distfa.transport.message import Link, Message


class Inbox:
    """Signals of one link, in the order in which they came; a full inbox slows its sender.

    Args:
        link: The link whose signals arrive here.
        run_id: The run; a message of another run is refused and does not disturb this one.
        window: Signals that may wait.
        max_payload_bytes: Longest payload accepted.
    """

    def __init__(self, link: Link, *, run_id: str, window: int, max_payload_bytes: int) -> None:
        self.link = link
        self._run_id = run_id
        self._window = window
        self._max_payload_bytes = max_payload_bytes
        self._waiting: deque[Message] = deque()
        self._failure: DistfaError | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._arrived: list[Callable[[], None]] = []
        self._has_room: list[Callable[[], None]] = []

    def deliver(self, data: bytes) -> None:
        """Put in one serialized signal; waits while the window is full.

        Raises:
            MessageRefused: The message does not belong to this run and link; the run continues if a stranger sent it,
                and ends if the link's own sender did.
            TransportError: The layer no longer takes messages.
        """
        try:
            message = serde.message_from_bytes(data)
        except MessageRefused as exc:
            raise self._end(f"{exc}") from exc
        if message.identity.run_id != self._run_id:
            raise MessageRefused(
                f"layer {self.link.receiver} refused a message of run {message.identity.run_id!r}: it belongs to "
                f"run {self._run_id!r}; a process of an earlier run may still be alive: end it"
            )
        if message.payload.nbytes > self._max_payload_bytes:
            raise self._end(
                f"the {message.identity}: its payload has {message.payload.nbytes} bytes, more than the "
                f"{self._max_payload_bytes} allowed; raise wire.max_message_mib"
            )
        with self._changed:
            self._changed.wait_for(lambda: self.has_room)
            if self._closed or self._failure:
                raise TransportError(f"layer {self.link.receiver} no longer accepts messages {self.link}")
            self._waiting.append(message)
            self._tell(self._arrived)

    def watch(self, *, arrived: Callable[[], None] | None = None, has_room: Callable[[], None] | None = None) -> None:
        """Call these whenever ``ready`` and ``has_room`` may have become true; they must not block."""
        self._arrived += [arrived] if arrived else []
        self._has_room += [has_room] if has_room else []

    @property
    def queue(self) -> int:
        """How many signals wait here now."""
        return len(self._waiting)

    @property
    def ready(self) -> bool:
        """Whether ``take`` would answer, or fail, at once."""
        return bool(self._waiting or self._failure or self._closed)

    @property
    def has_room(self) -> bool:
        """Whether ``deliver`` would."""
        return bool(len(self._waiting) < self._window or self._failure or self._closed)

    def take(self, deadline_seconds: float, what: object, *, waited_seconds: float = 0.0) -> Message:
        """The next signal; those that came before a failure are handed out first.

        Args:
            deadline_seconds: How long to wait.
            what: What is waited for, for the message: "activation from layer 1, step 3".
            waited_seconds: How much of that is over already.

        Raises:
            DeadlineExceeded: Nothing came in time.
            TransportError: The link failed.
        """
        started = time.monotonic() - waited_seconds
        with self._changed:
            self._changed.wait_for(lambda: self.ready, timeout=max(0.0, deadline_seconds - waited_seconds))
            if self._waiting:
                message = self._waiting.popleft()
                self._tell(self._has_room)
                return message
            if self._failure is not None:
                raise self._failure
            if self._closed:
                raise TransportError(f"layer {self.link.receiver} stopped listening while waiting for the {what}")
        raise DeadlineExceeded(
            f"layer {self.link.receiver} waited {time.monotonic() - started:.1f} s for the {what}, which did not "
            f"arrive; check layer {self.link.sender}, or raise wire.deadline_seconds"
        )

    def _end(self, refused: str) -> MessageRefused:
        """The error of a message from the link's own sender that cannot be used, which also ends the waiting for it."""
        refusal = MessageRefused(f"layer {self.link.receiver} refused {refused}")
        self.fail(refusal)
        return refusal

    def fail(self, reason: DistfaError) -> None:
        """Tell whoever takes signals here that no more will come, and why; the first reason is kept."""
        with self._changed:
            if not self._closed and self._failure is None:
                self._failure = reason
                self._tell(self._arrived + self._has_room)

    def close(self) -> None:
        """Accept nothing more; whoever waits, to deliver or to take, stops waiting."""
        with self._changed:
            self._closed = True
            self._tell(self._arrived + self._has_room)

    def _tell(self, watchers: Iterable[Callable[[], None]]) -> None:
        """Wake whoever waits; the caller holds the lock."""
        self._changed.notify_all()
        for changed in watchers:
            changed()
