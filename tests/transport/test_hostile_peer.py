"""A hostile peer beside a run: it is refused, training ends as if it were not there, and memory stays bounded.

Who has no right to speak to a layer at all is in test_tls.py; what one message may say is in test_serde.py and
test_ports.py. Here strangers do all they can to a run that is under way, in plain text, where nothing keeps them out
but the run's id.
"""

import contextlib
import os
import socket
import threading
import time
from collections import Counter

import grpc
import psutil
import pytest
import wires
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import ThreadRun, assert_same_bits, recipe, run_serial

from distfa.errors import MessageRefused, TransportError
from distfa.transport import serde
from distfa.transport.address import split_address
from distfa.transport.base import WireConfig
from distfa.transport.grpc_transport import SERVICE, GrpcTransport
from distfa.transport.tls import Authority

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"  # with empty settings
MOST_BYTES = 256 * 2**20


def garbage(address):
    """Bytes that are not HTTP/2, and bytes that begin as it and go on otherwise."""
    for content in (os.urandom(4096), b"GET / HTTP/1.1\r\n\r\n", PREFACE + os.urandom(65536), PREFACE + b"\xff" * 9):
        with contextlib.suppress(OSError), socket.create_connection(split_address(address), timeout=2) as stranger:
            stranger.sendall(content)


def http2(kind, flags, content):
    """A frame of stream 1."""
    return len(content).to_bytes(3, "big") + bytes([kind, flags, 0, 0, 0, 1]) + content


def huge_frame(address):
    """A call in good order, whose message says it is four gibibytes long and then comes byte by byte."""
    headers = {":method": "POST", ":scheme": "http", ":path": f"/{SERVICE}/Push", ":authority": "layer"}
    headers |= {"te": "trailers", "content-type": "application/grpc", "distfa-link": "up-1", "distfa-run-id": "guessed"}
    literal = b"".join(
        b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in headers.items()
    )
    with contextlib.suppress(OSError), socket.create_connection(split_address(address), timeout=2) as stranger:
        stranger.sendall(PREFACE + http2(1, 4, literal) + http2(0, 0, b"\x00\xff\xff\xff\xff"))
        for _ in range(20):
            stranger.sendall(http2(0, 0, b"x"))
            time.sleep(0.01)


def wrong_run(address):
    """Streams for every link there may be, of a run that is guessed."""
    with grpc.insecure_channel(address) as channel:
        for link in ("up-1", "down-1", "up-2", "down-2", "probe-up-1", "nothing", ""):
            push = channel.stream_unary(f"/{SERVICE}/Push")
            told = (("distfa-link", link), ("distfa-run-id", "guessed"))
            with contextlib.suppress(grpc.RpcError):
                push(iter([serde.message_to_bytes(wires.message())] * 3), timeout=2, metadata=told)


def unknown_methods(address):
    with grpc.insecure_channel(address) as channel:
        for method in ("/distfa.v1.LayerService/Steal", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"):
            with contextlib.suppress(grpc.RpcError):
                channel.unary_unary(method)(b"", timeout=2)


def health_watchers(address):
    """Watchers who never read what they asked for: each once held a thread until signals found none."""
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watching = [stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=2) for _ in range(20)]
        time.sleep(0.3)
        for call in watching:
            call.cancel()


ATTACKS = [garbage, huge_frame, wrong_run, unknown_methods, health_watchers]


def test_training_ends_as_if_nobody_were_there():
    r = recipe((12, 17, 9, 5), rule="fa", epochs=8, micro_batches=2, ledger_every=10, ledger_exact=True)
    weights, _, _ = run_serial(r)
    before, over, made = psutil.Process().memory_info().rss, threading.Event(), dict.fromkeys(ATTACKS, 0)
    with ThreadRun(r) as run:

        def attack(how):
            while not over.is_set():
                for address in list(run.addresses.values()):
                    how(address)
                made[how] += 1

        strangers = [threading.Thread(target=attack, args=(how,), daemon=True) for how in ATTACKS]
        for stranger in strangers:
            stranger.start()
        try:
            while not all(made.values()):  # every one has been round all layers before the run begins
                time.sleep(0.05)
            found, _ = run.train()
        finally:
            over.set()
        for stranger in strangers:
            stranger.join(30)
    assert_same_bits(found, weights)
    assert psutil.Process().memory_info().rss - before < MOST_BYTES


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_a_thousand_idle_connections_cost_little_and_stop_nobody(secure):
    authority = Authority(wires.RUN)
    keys = {layer: wires.issue(authority, layer) if secure else None for layer in (2, 3)}
    receiver, sender = (
        GrpcTransport(WireConfig(), run_id=wires.RUN, worker=layer, credentials=keys[layer]) for layer in (3, 2)
    )
    box = wires.inbox()
    before = psutil.Process().memory_info().rss
    with contextlib.ExitStack() as stack:
        stack.callback(sender.close)
        stack.callback(receiver.close)
        address = receiver.listen([box])
        for number in range(1000):
            idle = stack.enter_context(socket.create_connection(split_address(address), timeout=10))
            if number % 2:
                idle.sendall(b"\x16\x03\x01" if secure else PREFACE)  # half of them have begun to speak
        out = sender.connect(wires.UP, address, 20)
        out.send(serde.message_to_bytes(wires.message()), 20)
        assert box.take(20, "the signal").identity == wires.identity()
        assert psutil.Process().memory_info().rss - before < MOST_BYTES


def test_a_link_has_one_stream_and_a_second_one_of_the_same_layer_is_refused():
    """Whoever knows the run, or has stolen a layer's key, cannot speak beside the layer itself."""
    receiver = GrpcTransport(WireConfig(), run_id=wires.RUN, worker=3)
    first, second = (GrpcTransport(WireConfig(), run_id=wires.RUN, worker=2) for _ in range(2))
    box = wires.inbox()
    try:
        address = receiver.listen([box])
        mine = first.connect(wires.UP, address, 5)
        mine.send(serde.message_to_bytes(wires.message(step=0)), 5)
        assert box.take(5, "the first").identity.step == 0
        other = second.connect(wires.UP, address, 5)
        with pytest.raises(MessageRefused, match="already has its stream up-2 from layer 2"):
            for _ in range(50):
                other.send(serde.message_to_bytes(wires.message(step=1)), 5)
                time.sleep(0.05)
        mine.send(serde.message_to_bytes(wires.message(step=1)), 5)
        assert box.take(5, "the second").identity.step == 1
    finally:
        for transport in (first, second, receiver):
            transport.close()


@st.composite
def mangled(draw):
    """A message with bytes changed, cut out, doubled or put in."""
    codec = draw(st.sampled_from(["fp32", "int4", "packed", "uint2", "int8+zstd"]))
    data = bytearray(serde.message_to_bytes(wires.message(codec=codec)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        piece = draw(st.binary(max_size=12))
        end = place + draw(st.sampled_from([0, 0, 1, len(piece), 40]))
        data[place:end] = piece
    return codec, bytes(data)


def refused_or_taken(codec, data):
    """Through an inbox and a port as in a run; only distfa's own errors may come out."""
    box = wires.inbox()
    try:
        box.deliver(data)
        wires.in_port(box, codec=codec, wire=WireConfig(deadline_seconds=0.001)).receive(
            kind=wires.identity().kind, step=0, micro_batch=0, rows=3
        )
    except TransportError as exc:
        return str(exc)
    return ""


@settings(max_examples=1000, deadline=None)
@given(mangled())
def test_mangled_messages_are_refused_by_name_or_are_what_they_say(data):
    assert "Traceback" not in refused_or_taken(*data)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_hundred_thousand_of_them():
    """What is taken was not changed where it matters: a byte put in place of an equal one, for instance."""
    seen = Counter()

    @settings(max_examples=100_000, deadline=None, database=None)
    @given(mangled() | st.tuples(st.just("fp32"), st.binary(max_size=200)))
    def refused(data):
        said = refused_or_taken(*data)
        assert "Traceback" not in said
        seen["refused" if said else "taken"] += 1

    before = psutil.Process().memory_info().rss
    refused()
    print(f"{seen.total():,} messages, {seen['refused']:,} refused")
    assert seen.total() >= 100_000
    assert seen["refused"] > 9 * seen["taken"]
    assert psutil.Process().memory_info().rss - before < MOST_BYTES
