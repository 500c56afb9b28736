"""A port takes the one signal the schedule expects, whole, and counts what it sends to the byte."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import wires

from distfa.codecs import CODECS
from distfa.errors import DeadlineExceeded, MessageRefused
from distfa.transport import serde
from distfa.transport.base import WireConfig
from distfa.transport.loopback import LoopbackTransport, Switchboard
from distfa.transport.message import Kind
from distfa.transport.port import GRPC_FRAME_BYTES
from distfa.v1 import layer_pb2

WIRE = WireConfig(deadline_seconds=0.2)
X = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))


def connected(link=wires.UP, *, out=None, into=None):
    """(OutPort, InPort) over loopback; ``out`` and ``into`` are options of either end."""
    switchboard, box = Switchboard(), wires.inbox(link)
    address = LoopbackTransport(switchboard).listen([box])
    sender = LoopbackTransport(switchboard).connect(link, address, 1.0)
    return (
        wires.out_port(sender, **{"link": link, "wire": WIRE, **(out or {})}),
        wires.in_port(box, **{"wire": WIRE, **(into or {})}),
    )


def send(port, signal=X, *, step=4, micro_batch=0, kind=Kind.ACTIVATION):
    port.send(signal, kind=kind, step=step, micro_batch=micro_batch)


def receive(port, *, step=4, micro_batch=0, kind=Kind.ACTIVATION, rows=3):
    return port.receive(kind=kind, step=step, micro_batch=micro_batch, rows=rows)


REFUSED = "layer 3, step 4, refused the activation from layer 2 across boundary 2, step 4, micro-batch 0: "


@pytest.mark.parametrize("codec", CODECS)
def test_a_signal_arrives_as_its_codec_decodes_it(codec):
    out, into = connected(out={"codec": codec}, into={"codec": codec})
    send(out)
    decoded = CODECS[codec].decode(CODECS[codec].encode(X), 3, 5, torch.float32)
    assert torch.equal(receive(into), decoded)


def test_evaluation_crosses_with_its_own_codec():
    out, into = connected(out={"codec": "int8"}, into={"codec": "int8"})
    send(out, kind=Kind.EVALUATION)
    assert torch.equal(receive(into, kind=Kind.EVALUATION), X)


def test_a_repeated_message_is_refused():
    out, into = connected()
    for step in (3, 3):
        send(out, step=step)
    receive(into, step=3)
    with pytest.raises(
        MessageRefused,
        match="layer 3, step 4, refused the activation from layer 2 across boundary 2, step 3.*expected .*step 4",
    ):
        receive(into, step=4)


def test_the_message_after_a_lost_one_is_refused():
    out, into = connected()
    for step in (3, 5):
        send(out, step=step)
    receive(into, step=3)
    with pytest.raises(MessageRefused, match="layer 3, step 4, refused .*boundary 2, step 5.*a message was lost"):
        receive(into, step=4)


def test_a_last_message_lost_is_missed_by_name():
    _, into = connected()
    with pytest.raises(
        DeadlineExceeded, match="layer 3 waited .* for the activation from layer 2 across boundary 2, step 4, micro-b"
    ):
        receive(into)


@pytest.mark.parametrize(
    ("out", "signal", "told"),
    [
        ({}, X[:2], r"got \(2, 5\), expected \(3, 5\); the two ends disagree about the network or the batch"),
        ({}, X[:, :4], r"got \(3, 4\), expected \(3, 5\)"),
        ({}, X.double(), "got torch.float64, expected torch.float32; the two ends disagree about the dtype"),
        ({"codec": "bf16"}, X, "got bf16, expected fp32; the two ends disagree about the codec"),
        ({"wire": WireConfig(checksum=False)}, X, "it has no checksum, but the run requires one"),
    ],
    ids=["rows", "columns", "dtype", "codec", "checksum"],
)
def test_a_signal_unlike_the_expected_one_is_refused(out, signal, told):
    out, into = connected(out=out)
    send(out, signal)
    with pytest.raises(MessageRefused, match=REFUSED + told):
        receive(into)


@pytest.mark.parametrize("length", [0, 56, 59, 61, 64])
def test_a_payload_that_does_not_fit_its_shape_is_refused(length):
    _, into = connected()
    whole = wires.message(X, step=4)
    payload = torch.zeros(length, dtype=torch.uint8).numpy()
    into.inbox.deliver(serde.message_to_bytes(replace(whole, payload=payload, checksum=serde.checksum(payload))))
    with pytest.raises(MessageRefused, match=REFUSED + f"got {length} bytes, expected 60; the payload does not fit"):
        receive(into)


def flipped(payload, byte, bits):
    altered = payload.copy()
    altered[byte] ^= bits
    return altered


@pytest.mark.parametrize(
    ("alter", "told"),
    [
        (lambda payload: payload[:2], "got 2 bytes, expected at least the 3 that mark which numbers are stored"),
        (lambda payload: payload[:-4], "got 23 bytes, expected 27"),
        (lambda payload: np.append(payload, payload[:4]), "got 31 bytes, expected 27"),
        (lambda payload: flipped(payload, 1, 0x10), "got 27 bytes, expected 31"),
        (lambda payload: flipped(payload, 2, 0x04), "it marks numbers beyond column 5 as stored"),
    ],
    ids=["half its bits", "a number too few", "a number too many", "a bit too many", "a bit in the padding"],
)
def test_a_packed_payload_at_odds_with_itself_is_refused(alter, told):
    _, into = connected(into={"codec": "packed"})
    whole = wires.message(X.clamp(min=0), codec="packed", step=4)  # keeps 6 numbers of 15
    payload = alter(whole.payload)
    into.inbox.deliver(serde.message_to_bytes(replace(whole, payload=payload, checksum=serde.checksum(payload))))
    with pytest.raises(MessageRefused, match=REFUSED + told):
        receive(into)


def test_a_run_without_checksums_takes_signals_with_and_without():
    for wire in (WIRE, WireConfig(checksum=False)):
        out, into = connected(out={"wire": wire}, into={"wire": WireConfig(checksum=False)})
        send(out)
        assert torch.equal(receive(into), X)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_signal_that_is_not_finite_arrives_as_such_whatever_the_codec(codec, bad):
    """Whoever takes it says so (``Steps``); no codec may make an ordinary number of it."""
    out, into = connected(out={"codec": codec}, into={"codec": codec})
    signal = X.clone()
    signal[1, 2] = bad
    send(out, signal)
    assert not receive(into)[1].isfinite().all()


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (4, 1)])
def test_a_signal_keeps_its_shape(shape):
    link = replace(wires.UP, shape=shape)
    out, into = connected(link, out={"codec": "int8"}, into={"codec": "int8"})
    signal = torch.randn(3, *shape)
    send(out, signal)
    assert receive(into).shape == signal.shape


# A row of X: 5 numbers, none of them zero.
ROW_BYTES = {"fp32": 20, "fp64": 40, "bf16": 10, "fp8": 9, "int8": 9, "int4": 7, "int4sr": 7, "packed": 21}


@pytest.mark.parametrize("checksum", [True, False])
@pytest.mark.parametrize(("codec", "row_bytes"), ROW_BYTES.items())
def test_traffic_is_the_closed_form_of_payloads_and_the_real_length_of_messages(codec, row_bytes, checksum):
    wire, seen = WireConfig(checksum=checksum), []
    out, into = connected(
        out={"codec": codec, "wire": wire, "tap": lambda link, data: seen.append(data)},
        into={"codec": codec, "wire": wire},
    )
    for step in (0, 3, 300):  # a step's number takes more bytes as it grows
        send(out, step=step)
        receive(into, step=step)
    real = sum(layer_pb2.PushRequest.FromString(data).ByteSize() + GRPC_FRAME_BYTES for data in seen)
    traffic = out.traffic[Kind.ACTIVATION]
    assert (traffic.messages, traffic.payload_bytes, traffic.message_bytes) == (3, 3 * 3 * row_bytes, real)
    assert out.traffic[Kind.EVALUATION].messages == out.traffic[Kind.ERROR].messages == 0


def test_a_signal_beyond_the_limit_is_refused_before_it_is_sent_or_counted():
    out, into = connected(out={"wire": WireConfig(max_message_mib=1)})
    with pytest.raises(
        MessageRefused,
        match="layer 2 cannot send the activation .*boundary 2, step 4.*1048580 bytes, more than the 1048576 allowed",
    ):
        send(out, torch.zeros(52429, 5))
    assert out.traffic[Kind.ACTIVATION].messages == 0
    with pytest.raises(DeadlineExceeded, match="waited"):
        receive(into)
