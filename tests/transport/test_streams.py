"""How streams between two servers begin and end: who is let in, who is missed, and that no end waits for ever."""

import contextlib
import time
from dataclasses import replace

import grpc
import pytest
import torch
import wires
from wires import RUN, UP, Background

from distfa.errors import DeadlineExceeded, MessageRefused, PeerLost
from distfa.transport import serde
from distfa.transport.base import WireConfig
from distfa.transport.grpc_transport import GrpcTransport
from distfa.v1 import layer_pb2

PUSH = "/distfa.v1.LayerService/Push"


@pytest.fixture
def transport():
    """Makes transports and closes them, the last one first."""
    with contextlib.ExitStack() as stack:

        def make(layer, *, wire=WireConfig(), run_id=RUN):
            made = GrpcTransport(wire, run_id=run_id, worker=layer)
            stack.callback(made.close)
            return made

        yield make


def data(step=0):
    return serde.message_to_bytes(wires.message(step=step))


def test_ending_a_stream_waits_until_everything_was_received(transport):
    box = wires.inbox(window=20)
    sender = transport(2).connect(UP, transport(3).listen([box]), 10.0)
    for step in range(12):
        sender.send(data(step), 10.0)
    sender.close(10.0)
    assert [box.take(0.0, "signal").identity.step for _ in range(12)] == list(range(12))


def test_ending_a_stream_that_nobody_reads_ends_at_its_deadline(transport):
    """With the sender's queue full, close once waited for room in it without an end."""
    wire = WireConfig(window=1)
    sender = transport(2, wire=wire).connect(UP, transport(3, wire=wire).listen([wires.inbox(window=1)]), 10.0)
    with pytest.raises(DeadlineExceeded, match="layer 3 at .* accepted nothing for"):
        for step in range(200):
            sender.send(wires.big(4, step=step), 0.5)
    with pytest.raises(DeadlineExceeded, match="layer 2 could not end its stream up across boundary 2, layer 2 to 3"):
        Background(sender.close, 0.5).result()


def test_a_sender_that_goes_away_is_missed_at_once_every_time(transport):
    """A cancelled stream can look to the server like one that ended in good order, and the receiver of one in
    six once went on waiting until its deadline. Twenty in a row would pass by luck 3 times in 100.
    """
    boxes = [wires.inbox(replace(UP, boundary=b)) for b in range(1, 21)]
    address = transport(3).listen(boxes)
    senders = [transport(2) for _ in boxes]
    opened = [Background(away.connect, box.link, address, 20.0) for away, box in zip(senders, boxes, strict=True)]
    for away, stream, box in zip(senders, opened, boxes, strict=True):
        stream.result().send(data(), 10.0)
        box.take(10.0, "signal")
        started = time.monotonic()
        away.close()
        with pytest.raises(PeerLost, match="layer 2 disconnected: layer 3 lost its stream .* after 1 messages"):
            box.take(10.0, "signal")
        assert time.monotonic() - started < 5  # far below the deadline, far above any scheduling delay


def test_signals_that_came_before_their_sender_went_away_are_still_taken(transport):
    box, away = wires.inbox(window=8), transport(2)
    sender = away.connect(UP, transport(3).listen([box]), 10.0)
    for step in range(5):
        sender.send(data(step), 10.0)
    assert box.take(10.0, "signal").identity.step == 0
    sender.close(10.0)  # so that all five have come
    away.close()
    assert [box.take(10.0, "signal").identity.step for _ in range(4)] == [1, 2, 3, 4]
    with pytest.raises(PeerLost, match="layer 2 disconnected: .* after 5 messages"):
        box.take(10.0, "signal")


def test_a_refused_signal_comes_back_to_its_sender_as_the_receivers_reason(transport):
    box = wires.inbox()
    sender = transport(2).connect(UP, transport(3).listen([box]), 10.0)
    altered = bytearray(data(step=6))
    altered[-1] ^= 1
    sender.send(bytes(altered), 10.0)
    reason = "layer 3 refused activation from layer 2 across boundary 2, step 6.*CRC-32C"
    with pytest.raises(MessageRefused, match=reason):
        sender.close(10.0)
    with pytest.raises(MessageRefused, match=reason):
        box.take(10.0, "signal")


def test_a_message_beyond_the_receivers_limit_ends_the_stream_at_both_ends(transport):
    """The two ends of a run share their limits; a sender that has others does not fill the receiver's memory."""
    small = WireConfig(max_message_mib=1)
    box = wires.inbox(max_payload_bytes=small.max_payload_bytes)
    sender = transport(2).connect(UP, transport(3, wire=small).listen([box]), 10.0)
    sender.send(wires.big(2), 10.0)
    with pytest.raises(PeerLost, match="layer 3 at .* RESOURCE_EXHAUSTED"):
        sender.close(10.0)
    with pytest.raises(PeerLost, match="layer 3 lost its stream .* after 0 messages"):
        box.take(10.0, "signal")


def test_a_stream_that_nobody_here_expects_is_refused(transport):
    address = transport(3).listen([wires.inbox()])
    sender = transport(4).connect(wires.DOWN, address, 10.0)
    with pytest.raises(MessageRefused, match="layer 3 accepts no stream down-2 of run run-1"):
        sender.close(10.0)


@pytest.mark.parametrize("metadata", [(), (("distfa-link", "up-2"),), (("distfa-run", RUN),)])
def test_a_caller_that_does_not_say_who_it_is_is_refused_and_the_run_goes_on(transport, metadata):
    box = wires.inbox()
    address = transport(3).listen([box])
    with (
        grpc.insecure_channel(address) as channel,
        pytest.raises(grpc.RpcError, match="layer 3 accepts no stream") as no,
    ):
        channel.stream_unary(PUSH)(iter([data()]), metadata=metadata, timeout=10)
    assert no.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    transport(2).connect(UP, address, 10.0).send(data(step=1), 10.0)
    assert box.take(10.0, "signal").identity.step == 1


def test_a_client_of_the_generated_classes_pushes_signals_and_is_told_how_many(transport):
    box = wires.inbox()
    requests = [layer_pb2.PushRequest.FromString(data(step)) for step in range(3)]
    with grpc.insecure_channel(transport(3).listen([box])) as channel:
        push = channel.stream_unary(
            PUSH,
            request_serializer=layer_pb2.PushRequest.SerializeToString,
            response_deserializer=layer_pb2.PushResponse.FromString,
        )
        response = push(iter(requests), metadata=(("distfa-link", "up-2"), ("distfa-run", RUN)), timeout=10)
    assert response.messages == 3
    taken = [box.take(5.0, "signal") for _ in range(3)]
    assert [m.identity.step for m in taken] == [0, 1, 2]
    assert torch.from_numpy(taken[0].payload.copy()).view(torch.float32).tolist() == list(range(15))


def test_a_closed_layer_can_be_listened_for_again_at_its_port(transport):
    first = transport(1)
    port = int(first.listen([]).rpartition(":")[2])
    first.close()
    assert transport(1, wire=WireConfig(ports=f"{port}")).listen([]) == f"127.0.0.1:{port}"
