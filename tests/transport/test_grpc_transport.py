"""The wire itself: big messages, limits, deadlines, strangers, lost peers, TLS, health."""

import contextlib
import os
import socket
import threading
import time
from dataclasses import replace

import grpc
import pytest
import torch
import wires
from grpc_health.v1 import health_pb2, health_pb2_grpc

from distfa.codecs import resolve
from distfa.errors import DeadlineExceeded, MessageRefused, PeerLost, TransportError
from distfa.transport.address import is_here
from distfa.transport.base import WireConfig
from distfa.transport.grpc_transport import SERVICE, GrpcTransport, peer_name
from distfa.transport.inbox import Inbox
from distfa.transport.message import Direction, Kind, Link
from distfa.transport.port import GRPC_FRAME_BYTES, InPort, OutPort
from distfa.transport.tls import Authority

F32 = torch.float32
WIRE = WireConfig(deadline_seconds=2.0)


def link(columns=6):
    return Link(boundary=1, direction=Direction.UP, sender=1, receiver=2, shape=(columns,))


class Pair:
    """Layer 1 sending to layer 2, over gRPC."""

    def __init__(self, wire=WIRE, columns=6, credentials=(None, None), sender_run="run", connect=True):
        self.wire, self.link, self.sender_run = wire, link(columns), sender_run
        self.inbox = Inbox(self.link, run_id="run", window=wire.window, max_payload_bytes=wire.max_payload_bytes)
        self.receiver = GrpcTransport(wire, run_id="run", worker=2, credentials=credentials[1])
        self.sender = GrpcTransport(wire, run_id=sender_run, worker=1, credentials=credentials[0])
        self.address = self.receiver.listen([self.inbox])
        codec = resolve("lossless", F32)
        common = {"link": self.link, "codec": codec, "exact_codec": codec, "wire": wire}
        self.into = InPort(run_id="run", inbox=self.inbox, dtype=F32, device=torch.device("cpu"), **common)
        if connect:
            stream = self.sender.connect(self.link, self.address, wire.deadline_seconds)
            self.out = OutPort(run_id=sender_run, sender=stream, **common)

    def send(self, x, step=0, micro_batch=0, kind=Kind.ACTIVATION):
        self.out.send(x, kind=kind, step=step, micro_batch=micro_batch)

    def receive(self, rows, step=0, micro_batch=0, kind=Kind.ACTIVATION):
        return self.into.receive(kind=kind, step=step, micro_batch=micro_batch, rows=rows)

    def close(self):
        self.sender.close()
        self.receiver.close()


@pytest.fixture
def pair():
    """Makes pairs and closes them."""
    with contextlib.ExitStack() as stack:

        def make(**options):
            made = Pair(**options)
            stack.callback(made.close)
            return made

        yield make


def test_signals_arrive_in_order_and_are_counted(pair):
    p = pair()
    signals = [torch.randn(3, 6) for _ in range(20)]
    sender = threading.Thread(target=lambda: [p.send(x, step=i) for i, x in enumerate(signals)])
    sender.start()
    for i, x in enumerate(signals):
        assert torch.equal(p.receive(3, step=i), x)
    sender.join()
    p.out.close()
    traffic = p.out.traffic[Kind.ACTIVATION]
    assert (traffic.messages, traffic.payload_bytes) == (20, 20 * 3 * 6 * 4)
    assert 20 * GRPC_FRAME_BYTES < traffic.message_bytes - traffic.payload_bytes < 20 * 64


def test_a_delay_holds_every_message_back_and_keeps_their_order(pair):
    p = pair(wire=replace(WIRE, delay_ms=200.0))
    began, signals = time.monotonic(), [torch.randn(3, 6) for _ in range(6)]
    for step, signal in enumerate(signals):
        p.send(signal, step=step)
    assert torch.equal(p.receive(3), signals[0])
    assert time.monotonic() - began >= 0.2
    for step, signal in enumerate(signals[1:], start=1):
        assert torch.equal(p.receive(3, step=step), signal)
    p.out.close()


def test_an_activation_of_sixty_four_mebibytes_crosses(pair):
    p = pair(wire=WireConfig(deadline_seconds=20), columns=4096)
    x = torch.randn(4096, 4096)
    threading.Thread(target=p.send, args=(x,)).start()
    assert torch.equal(p.receive(4096), x)


def test_a_message_beyond_the_limit_is_refused_before_it_is_sent(pair):
    p = pair(wire=WireConfig(max_message_mib=1), columns=1024)
    with pytest.raises(
        MessageRefused, match=r"layer 1 cannot send the activation .*1052672 bytes, more than the 1048576 allowed"
    ):
        p.send(torch.zeros(257, 1024))


@pytest.mark.parametrize(
    ("sent", "expected", "message"),
    [
        ({"step": 3}, {"step": 4}, r"layer 2, step 4, refused the activation .* step 3.*lost, repeated or reordered"),
        ({"micro_batch": 1}, {}, r"micro-batch 1.*expected .*micro-batch 0"),
        ({"kind": Kind.EVALUATION}, {}, r"refused the evaluation from layer 1 across boundary 1"),
        ({}, {"rows": 4}, r"got \(3, 6\), expected \(4, 6\); the two ends disagree about the network or the batch"),
    ],
)
def test_any_signal_but_the_expected_one_is_refused(pair, sent, expected, message):
    p = pair()
    p.send(torch.zeros(3, 6), **sent)
    with pytest.raises(MessageRefused, match=message):
        p.receive(**{"rows": 3, **expected})


def test_another_dtype_codec_or_a_missing_checksum_is_refused(pair):
    for change, message in (
        ("dtype", "disagree about the dtype"),
        ("codec", "got bf16, expected fp32; the two ends disagree about the codec"),
        ("checksum", "it has no checksum, but the run requires one"),
    ):
        p = pair()
        if change == "codec":
            p.out.codec = resolve("bf16", F32)
        if change == "checksum":
            p.out.wire = WireConfig(checksum=False)
        p.send(torch.zeros(3, 6, dtype=torch.float64 if change == "dtype" else F32))
        with pytest.raises(MessageRefused, match=message):
            p.receive(3)


def test_a_message_of_another_run_is_refused_and_this_run_goes_on(pair):
    p = pair()
    stranger = pair(sender_run="another", connect=False)
    stream = stranger.sender.connect(p.link, p.address, 2.0)
    with pytest.raises(MessageRefused, match=r"layer 2 accepts no stream up-1 of run another"):
        for _ in range(50):
            stream.send(b"x", 2.0)
            time.sleep(0.05)
    p.send(torch.ones(3, 6))
    assert p.receive(3).sum() == 18


def test_a_missing_signal_ends_in_a_deadline_that_names_the_sender(pair):
    with pytest.raises(DeadlineExceeded, match=r"layer 2 waited 2.0 s for the activation from layer 1 .*step 5"):
        pair().receive(3, step=5)


def test_a_receiver_that_takes_nothing_ends_in_a_deadline_at_the_sender(pair):
    """The window bounds what is under way: a slow receiver slows its sender, memory does not grow."""
    p = pair(wire=WireConfig(window=1, deadline_seconds=1.0), columns=65536)
    sent = 0
    with pytest.raises(DeadlineExceeded, match="layer 2 at .* accepted nothing for 1 s"):
        for step in range(1000):
            p.send(torch.zeros(16, 65536), step=step)
            sent += 1
    assert sent < 50  # 4 MiB each: one in the inbox, one in the queue, the rest in HTTP/2's own windows


def test_a_receiver_that_goes_away_is_a_lost_peer(pair):
    p = pair()
    p.send(torch.zeros(3, 6))
    p.receiver.close()
    with pytest.raises(PeerLost, match="layer 2 at .* disconnected while layer 1 was sending"):
        for step in range(1, 100):
            p.send(torch.zeros(3, 6), step=step)
            time.sleep(0.05)


def test_a_sender_that_goes_away_is_a_lost_peer(pair):
    p = pair()
    p.send(torch.zeros(3, 6))
    p.receive(3)
    p.sender.close()
    with pytest.raises(PeerLost, match="layer 1 disconnected: layer 2 lost its stream .* after 1 messages"):
        p.receive(3, step=1)


def test_where_no_port_of_the_range_is_free_their_holder_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        transport = GrpcTransport(WireConfig(ports=f"{port}"), run_id="run", worker=1)
        with pytest.raises(
            TransportError,
            match=rf"layer 1 found no free port in wire.ports {port} on 127.0.0.1 .*{port} by .*\(pid {os.getpid()}\)",
        ):
            transport.listen([])


def free_range(count):
    """The first of ``count`` free ports in a row."""
    while True:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError, OverflowError):
            first = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            for port in range(first + 1, first + count):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first


def test_layers_of_one_node_take_free_ports_within_the_range():
    first = free_range(4)
    with contextlib.ExitStack() as stack:
        stack.enter_context(socket.create_server(("127.0.0.1", first + 1)))
        made = [
            GrpcTransport(WireConfig(ports=f"{first}-{first + 3}"), run_id="run", worker=layer) for layer in (1, 2, 3)
        ]
        for transport in made:
            stack.callback(transport.close)
        ports = [int(transport.listen([]).rpartition(":")[2]) for transport in made]
    assert ports == [first, first + 2, first + 3]


def test_a_host_that_is_not_this_machines_is_named():
    transport = GrpcTransport(WireConfig(host="192.0.2.77"), run_id="run", worker=1)
    with pytest.raises(TransportError, match=r"cannot listen on 192\.0\.2\.77: that is not an address of this machine"):
        transport.listen([])


@pytest.mark.parametrize(("advertised", "expected"), [("", "127.0.0.1"), ("127.0.0.2", "127.0.0.2")])
def test_every_address_is_listened_on_but_never_advertised(advertised, expected):
    transport = GrpcTransport(WireConfig(host="0.0.0.0"), run_id="run", worker=2, advertised=advertised)
    address = transport.listen([])
    assert address.rpartition(":")[0] == expected
    other = GrpcTransport(WIRE, run_id="run", worker=1)
    other.connect(link(), address, 5.0)
    other.close()
    transport.close()


@pytest.mark.skipif(not is_here("::1"), reason="this machine has no IPv6")
def test_ipv6_addresses_are_bracketed_and_work():
    transport = GrpcTransport(WireConfig(host="::1"), run_id="run", worker=2)
    address = transport.listen([])
    assert address.startswith("[::1]:")
    other = GrpcTransport(WIRE, run_id="run", worker=1)
    other.connect(link(), address, 5.0)
    other.close()
    transport.close()


def test_nobody_at_the_address_is_named_within_the_deadline():
    transport = GrpcTransport(WIRE, run_id="run", worker=1)
    with pytest.raises(DeadlineExceeded, match=r"layer 1 could not reach layer 2 at 127.0.0.1:9 within 1 s"):
        transport.connect(link(), "127.0.0.1:9", 1.0)
    transport.close()


def test_health_is_served_and_reflection_is_not(pair):
    p = pair()
    with grpc.insecure_channel(p.address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        reflect = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        with pytest.raises(grpc.RpcError) as refused:
            next(reflect(iter([b""]), timeout=5))
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_layers_of_one_run_talk_over_mutual_tls(pair):
    authority = Authority("run")
    p = pair(credentials=(wires.issue(authority, 1), wires.issue(authority, 2)))
    p.send(torch.ones(3, 6))
    assert p.receive(3).sum() == 18


@pytest.mark.parametrize("who", ["plain text", "another run's certificate"])
def test_nobody_else_talks_to_a_layer_under_tls(pair, who):
    mine = wires.issue(Authority("run"), 2)
    theirs = None if who == "plain text" else wires.issue(Authority("run"), 1)
    p = pair(credentials=(theirs, mine), connect=False)
    with pytest.raises(DeadlineExceeded, match="layer 1 could not reach layer 2"):
        p.sender.connect(p.link, p.address, 1.0)


def test_a_layer_under_tls_wants_a_certificate_of_its_caller():
    authority = Authority("run")
    credentials = wires.issue(authority, 2)
    receiver = GrpcTransport(WIRE, run_id="run", worker=2, credentials=credentials)
    address = receiver.listen([])
    no_certificate = grpc.ssl_channel_credentials(credentials.authority)
    options = [("grpc.ssl_target_name_override", peer_name(2))]
    with grpc.secure_channel(address, no_certificate, options=options) as channel, pytest.raises(grpc.RpcError):
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=3)
    receiver.close()
