"""The wire: one gRPC server per layer, one long-lived client stream per link; only this file uses grpc.

Flow control needs no extra protocol: when an inbox is full, the server stops reading, HTTP/2's window fills, the
sender's queue fills, and the sending layer waits.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NoReturn

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from distfa.errors import DeadlineExceeded, DistfaError, MessageRefused, PeerLost, TransportError
from distfa.transport.address import holders, is_here, is_wildcard, join_address, port_range
from distfa.transport.base import WireConfig
from distfa.transport.inbox import Inbox
from distfa.transport.message import Link
from distfa.v1 import layer_pb2

SERVICE = "distfa.v1.LayerService"
_PUSH = "Push"
_HEADER_ROOM_BYTES = 2**16  # the small fields around a payload
_SPARE_THREADS = 4  # for health checks, and for strangers that are refused
_CLOSE_SECONDS = 5.0  # longest wait for streams, server and threads to end
_STEP_SECONDS = 0.2  # how often a waiting sender checks that its stream is still open
_LINK_KEY, _RUN_KEY = "distfa-link", "distfa-run"


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """PEM texts for mutual TLS: this worker's key and certificate, and the run's authority."""

    key: bytes = field(repr=False)
    certificate: bytes
    authority: bytes


def peer_name(worker: int) -> str:
    """The name in a worker's certificate, by which other workers know it."""
    return f"worker-{worker}.distfa"


class GrpcTransport:
    """One worker's server and its streams to other workers.

    Args:
        wire: Host, ports, limits and deadlines.
        run_id: The run; streams of other runs are refused.
        worker: The worker whose end this is.
        worker_of: The worker of every layer and replica; by default each has one of its own.
        title: The worker in words; empty: its layer.
        credentials: For mutual TLS; None for plain text.
        advertised: The host that other workers connect to; empty: the one listened on, or loopback if that means all.
    """

    def __init__(
        self,
        wire: WireConfig,
        *,
        run_id: str,
        worker: int,
        worker_of: Callable[[int, int], int] = lambda layer, replica: layer,
        title: str = "",
        credentials: Credentials | None = None,
        advertised: str = "",
    ) -> None:
        self._wire = wire
        self._advertised = advertised or ("127.0.0.1" if is_wildcard(wire.host) else wire.host)
        self._run_id = run_id
        self._worker, self._worker_of, self._title = worker, worker_of, title or f"layer {worker}"
        self._credentials = credentials
        self._server: grpc.Server | None = None
        self._inboxes: dict[str, Inbox] = {}
        self._channels: list[grpc.Channel] = []
        self._senders: list[GrpcSender] = []
        self._pool: ThreadPoolExecutor | None = None
        self._thread_name = f"distfa-wire-{uuid.uuid4().hex[:8]}"
        self._health = _Health()
        self._claimed: set[str] = set()
        self._lock = threading.Lock()

    def listen(self, inboxes: list[Inbox]) -> str:
        """Start the server; returns the host:port that other layers connect to.

        Raises:
            TransportError: The host is not this machine's, or no port of the range is free.
        """
        self._inboxes = {_key(inbox.link): inbox for inbox in inboxes}
        self._pool = ThreadPoolExecutor(len(inboxes) + _SPARE_THREADS, thread_name_prefix=self._thread_name)
        server = grpc.server(self._pool, options=[*self._limits(), ("grpc.so_reuseport", 0)])
        push = grpc.stream_unary_rpc_method_handler(
            self._push, response_serializer=layer_pb2.PushResponse.SerializeToString
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {_PUSH: push}),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        port = self._bind(server)
        server.start()
        self._server = server
        self._health.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
        return join_address(self._advertised, port)

    def connect(
        self, link: Link, address: str, deadline_seconds: float, changed: Callable[[], None] = lambda: None
    ) -> GrpcSender:
        """Open the stream of ``link``.

        Raises:
            DeadlineExceeded: Nobody answered there in time.
        """
        channel = self._open(address, self._worker_of(link.receiver, link.receiving_replica))
        self._channels.append(channel)
        ready = grpc.channel_ready_future(channel)
        try:
            ready.result(timeout=deadline_seconds)
        except grpc.FutureTimeoutError as exc:
            ready.cancel()
            raise DeadlineExceeded(
                f"layer {link.sender} could not reach layer {link.receiver} at {address} within "
                f"{deadline_seconds:.0f} s; can the two nodes reach each other there?"
            ) from exc
        sender = GrpcSender(channel, link, self._run_id, self._wire, address, changed)
        self._senders.append(sender)
        return sender

    def close(self) -> None:
        """Stop listening and drop every stream at once; no thread and no channel is left."""
        give_up = time.monotonic() + _CLOSE_SECONDS
        self._health.set(SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)
        for inbox in self._inboxes.values():
            inbox.close()
        for sender in self._senders:
            sender.drop()
        for channel in self._channels:
            channel.close()
        if self._server is not None:
            self._server.stop(grace=0).wait(_seconds_left(give_up))
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)  # grpc leaves that to the code that made the pool
        for thread in threading.enumerate():
            if thread.name.startswith(self._thread_name):
                thread.join(_seconds_left(give_up))

    def _limits(self) -> list[tuple[str, int]]:
        """Message limits for both ends (grpc's own default of 4 MiB applies on receipt), and keepalive."""
        longest = self._wire.max_payload_bytes + _HEADER_ROOM_BYTES
        return [
            ("grpc.max_receive_message_length", longest),
            ("grpc.max_send_message_length", longest),
            ("grpc.keepalive_time_ms", 10_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ]

    def _bind(self, server: grpc.Server) -> int:
        """Listen on the first free port of the range and return it; each worker begins at another place in it."""
        ports = port_range(self._wire.ports)
        host = self._wire.host or "127.0.0.1"
        turn = (self._worker - 1) % len(ports) if ports else 0
        for port in [*ports[turn:], *ports[:turn]] if ports else [0]:
            with contextlib.suppress(RuntimeError):  # grpc's name for an error on a port that is taken
                return self._listen_on(server, join_address(host, port))
        if not is_here(host):
            raise TransportError(
                f"{self._title} cannot listen on {host}: that is not an address of this machine "
                f"({socket.gethostname()}); leave wire.host empty, so that each layer listens on its own node's "
                "address"
            )
        if ports is None:
            raise TransportError(f"{self._title} cannot listen on {host}: this machine has no free port left")
        raise TransportError(
            f"{self._title} found no free port in wire.ports {self._wire.ports} on {host} "
            f"({socket.gethostname()}): in use: {holders(ports)}; end those processes, or give a wider range: "
            "every layer on a node takes one port, or every worker where they host several"
        )

    def _listen_on(self, server: grpc.Server, place: str) -> int:
        if self._credentials is None:
            return int(server.add_insecure_port(place))
        mine = self._credentials
        mutual = grpc.ssl_server_credentials(
            [(mine.key, mine.certificate)], root_certificates=mine.authority, require_client_auth=True
        )
        return int(server.add_secure_port(place, mutual))

    def _open(self, address: str, receiver: int) -> grpc.Channel:
        options: list[tuple[str, int | str]] = [*self._limits(), ("grpc.enable_http_proxy", 0)]
        if self._credentials is None:
            return grpc.insecure_channel(address, options=options)
        mine = self._credentials
        options.append(("grpc.ssl_target_name_override", peer_name(receiver)))
        return grpc.secure_channel(
            address, grpc.ssl_channel_credentials(mine.authority, mine.key, mine.certificate), options=options
        )

    def _is_sender(self, inbox: Inbox, context: grpc.ServicerContext) -> bool:
        """Whether the caller has the certificate of the worker that the stream says it is from; True without TLS."""
        if self._credentials is None:
            return True
        names = context.auth_context().get("x509_common_name", [])
        return [name.decode() for name in names] == [peer_name(self._worker_of(inbox.link.sender, inbox.link.replica))]

    def _claim(self, inbox: Inbox) -> bool:
        """Whether this is the first stream of its link; no second one is accepted."""
        with self._lock:
            first = _key(inbox.link) not in self._claimed
            self._claimed.add(_key(inbox.link))
        return first

    def _push(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> layer_pb2.PushResponse:
        """Serve one stream: everything it brings goes into the link's inbox."""
        told = dict(context.invocation_metadata())
        inbox = self._inboxes.get(str(told.get(_LINK_KEY)))
        if inbox is None or told.get(_RUN_KEY) != self._run_id:
            _refuse(
                context,
                f"{self._title} accepts no stream {told.get(_LINK_KEY)} of run {told.get(_RUN_KEY)}",
            )
        if not self._is_sender(inbox, context):
            _refuse(context, f"{self._title} accepts stream {told.get(_LINK_KEY)} only from layer {inbox.link.sender}")
        if not self._claim(inbox):
            _refuse(
                context,
                f"{self._title} already has its stream {told.get(_LINK_KEY)} from layer "
                f"{inbox.link.sender}; a second one cannot be that layer's",
            )
        messages = 0
        try:
            for data in requests:
                inbox.deliver(data)
                messages += 1
        except MessageRefused as exc:
            _refuse(context, str(exc))
        except TransportError as exc:
            context.abort(grpc.StatusCode.CANCELLED, str(exc))
        except Exception:  # grpc raises a bare Exception here when the sender's end is gone
            inbox.fail(_peer_lost(inbox.link, messages))
            raise
        # When a sender is gone, its stream can also look as if it were closed in order. And after a stream is closed in
        # order, nothing more comes for a layer that still waits for a signal.
        inbox.fail(_peer_lost(inbox.link, messages))
        return layer_pb2.PushResponse(messages=messages)


class _Health(health.HealthServicer):  # type: ignore[misc]
    """Answers checks; watching is refused, since every watcher would hold a thread that signals need."""

    def Watch(self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext, *_: object) -> None:
        """Refuse, which the protocol allows."""
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "a layer's health can be checked (Check), but not watched (Watch)")


class GrpcSender:
    """The sending end of one stream; a short queue lets sending overlap with computing."""

    def __init__(
        self,
        channel: grpc.Channel,
        link: Link,
        run_id: str,
        wire: WireConfig,
        address: str,
        changed: Callable[[], None],
    ) -> None:
        self._link, self._address, self._changed = link, address, changed
        self._delay_seconds = wire.delay_ms / 1000
        self._queue: queue.Queue[tuple[bytes, float] | None] = queue.Queue(maxsize=wire.window)
        self._ended = threading.Event()
        push = channel.stream_unary(f"/{SERVICE}/{_PUSH}", response_deserializer=layer_pb2.PushResponse.FromString)
        # The stream lives as long as the run; each message on it has its own deadline.
        self._call = push.future(self._when_due(), metadata=((_LINK_KEY, _key(link)), (_RUN_KEY, run_id)))
        self._call.add_done_callback(self._note_end)

    @property
    def has_room(self) -> bool:
        """Whether the queue has; also of a stream that has ended, since sending then fails at once."""
        return self._ended.is_set() or not self._queue.full()

    def send(self, data: bytes, deadline_seconds: float, *, waited_seconds: float = 0.0) -> None:
        """Queue one message; waits while the queue is full."""
        give_up = time.monotonic() + deadline_seconds - waited_seconds
        while True:
            if self._ended.is_set():
                raise self._failure()
            try:
                return self._queue.put((data, time.monotonic() + self._delay_seconds), timeout=_STEP_SECONDS)
            except queue.Full:
                if time.monotonic() > give_up:
                    raise DeadlineExceeded(
                        f"layer {self._link.sender} could not send {self._link}: layer {self._link.receiver} at "
                        f"{self._address} accepted nothing for {deadline_seconds:.0f} s; check layer "
                        f"{self._link.receiver}, or raise wire.deadline_seconds"
                    ) from None

    def _when_due(self) -> Iterator[bytes]:
        """The queued messages, each when its delay is over; messages that are queued together are delayed together."""
        for data, due in iter(self._queue.get, None):
            if self._queue.qsize() == self._queue.maxsize - 1:  # it was full
                self._changed()
            if (left := due - time.monotonic()) > 0:
                time.sleep(left)
            yield data

    def close(self, deadline_seconds: float) -> None:
        """Wait until everything is received, then end the stream."""
        give_up = time.monotonic() + deadline_seconds
        while not self._ended.is_set() and time.monotonic() < give_up:
            try:
                self._queue.put(None, timeout=_STEP_SECONDS)
                give_up = time.monotonic() + deadline_seconds  # the receiver takes messages
                break
            except queue.Full:
                continue
        if not self._ended.wait(max(0.0, give_up - time.monotonic())):
            raise DeadlineExceeded(
                f"layer {self._link.sender} could not end its stream {self._link} within {deadline_seconds:.0f} s"
            )
        if self._call.code() is not grpc.StatusCode.OK:
            raise self._failure()

    def drop(self) -> None:
        """End the stream at once, whatever is still queued."""
        self._call.cancel()
        # grpc's own thread may wait for the next message, and sees the end only when one comes.
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)

    def _note_end(self, _: object) -> None:
        self._ended.set()
        self._changed()

    def _failure(self) -> DistfaError:
        """The error of a stream that has ended, as one of distfa's."""
        code, details = self._call.code(), self._call.details()
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            return MessageRefused(str(details))
        name = code.name if code is not None else "UNKNOWN"
        return PeerLost(
            f"layer {self._link.receiver} at {self._address} disconnected while layer {self._link.sender} was "
            f"sending {self._link}: {name}, {details}"
        )


def _seconds_left(give_up: float) -> float:
    """Seconds until ``give_up``."""
    return max(0.0, give_up - time.monotonic())


def _key(link: Link) -> str:
    """A link as text in a stream's metadata; a replica has one stream per boundary, direction and receiver."""
    which = f"-{link.replica}-{link.receiving_replica}" if link.replica or link.receiving_replica else ""
    return f"{link.direction.value}-{link.boundary}{which}"


def _peer_lost(link: Link, messages: int) -> PeerLost:
    return PeerLost(
        f"layer {link.sender} disconnected: layer {link.receiver} lost its stream {link} after {messages} messages"
    )


def _refuse(context: grpc.ServicerContext, reason: str) -> NoReturn:
    context.abort(grpc.StatusCode.INVALID_ARGUMENT, reason)
    raise MessageRefused(reason)  # abort raises; this line tells the type checker so
