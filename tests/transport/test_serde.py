"""Messages as bytes: what the generated protobuf classes read and write, and nothing else gets through."""

import re
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import wires
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from distfa.codecs import CODECS
from distfa.errors import MessageRefused
from distfa.transport import serde
from distfa.transport.message import Identity, Kind, Message
from distfa.v1 import layer_pb2, tensor_pb2

quickly = settings(max_examples=40, deadline=None)
identities = st.builds(
    wires.identity,
    run_id=st.text(max_size=30),
    boundary=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(Kind),
    sender=st.integers(0, 2**32 - 1),
    step=st.integers(0, 2**64 - 1),
    micro_batch=st.integers(0, 2**32 - 1),
)


@st.composite
def messages(draw, codecs=tuple(CODECS), checksum=None):
    signal = torch.randn(
        draw(st.integers(1, 7)),
        draw(st.sampled_from([1, 3, 40, 200])),
        dtype=draw(st.sampled_from([torch.float32, torch.float64])),
        generator=torch.Generator().manual_seed(draw(st.integers(0, 1000))),
    )
    with_checksum = draw(st.booleans()) if checksum is None else checksum
    made = wires.message(signal, codec=draw(st.sampled_from(codecs)), checksum=with_checksum)
    return replace(made, identity=draw(identities))


def assert_same(found, expected):
    for name in ("identity", "dtype", "shape", "codec", "checksum"):
        assert getattr(found, name) == getattr(expected, name), name
    np.testing.assert_array_equal(found.payload, expected.payload)


def generated(message):
    """The same message made with the generated classes alone."""
    who = asdict(message.identity) | {"kind": f"KIND_{message.identity.kind.name}"}
    return layer_pb2.PushRequest(
        identity=layer_pb2.Identity(**who),
        tensor=tensor_pb2.Tensor(
            dtype=f"DTYPE_{str(message.dtype).removeprefix('torch.').upper()}",
            shape=message.shape,
            codec=f"CODEC_{message.codec.removesuffix('+zstd').upper()}",
            compression="COMPRESSION_ZSTD" if message.codec.endswith("+zstd") else None,
            crc32c=message.checksum,
            payload=message.payload.tobytes(),
        ),
    )


def field(number, content):
    """A length-delimited field of any length."""
    length, out = len(content), bytearray()
    while length > 0x7F:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([number << 3 | 2]) + bytes(out) + bytes([length]) + content


@quickly
@given(messages())
def test_load_gives_back_what_was_dumped(message):
    assert_same(serde.message_from_bytes(serde.message_to_bytes(message)), message)


@quickly
@given(messages())
def test_the_bytes_are_those_of_the_generated_classes(message):
    data = serde.message_to_bytes(message)
    assert layer_pb2.PushRequest.FromString(data) == generated(message)
    assert data == generated(message).SerializeToString()


@quickly
@given(messages())
def test_load_reads_what_the_generated_classes_write(message):
    assert_same(serde.message_from_bytes(generated(message).SerializeToString()), message)


@quickly
@given(messages())
def test_fields_may_come_in_any_order_and_with_fields_of_a_later_version(message):
    whole = generated(message)
    # Fields 14, 13, 12 and 11, which this version does not have: a number, 8 bytes, 4 bytes, a text.
    unknown = b"\x70\x96\x01" + b"\x69" + b"8 bytes." + b"\x65" + b"four" + field(11, b"a text")
    small = tensor_pb2.Tensor()
    small.CopyFrom(whole.tensor)
    small.ClearField("payload")
    payload = tensor_pb2.Tensor(payload=whole.tensor.payload)
    tensor = unknown + payload.SerializeToString() + unknown + small.SerializeToString()
    data = unknown + field(2, tensor) + unknown + field(1, whole.identity.SerializeToString()) + unknown
    assert layer_pb2.PushRequest.FromString(data).tensor.payload == whole.tensor.payload
    assert_same(serde.message_from_bytes(data), message)


@pytest.mark.parametrize("codec", CODECS)
def test_a_loaded_payload_is_a_view_of_the_bytes(codec):
    data = serde.message_to_bytes(wires.message(codec=codec))
    payload = serde.message_from_bytes(data).payload
    assert np.shares_memory(payload, np.frombuffer(data, np.uint8))
    assert not payload.flags.writeable


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("codec", CODECS)
def test_every_kind_dtype_and_codec_has_a_wire_number_of_its_name(codec, dtype, kind):
    message = wires.message(torch.ones(2, 3, dtype=dtype), codec=codec, kind=kind)
    parsed = layer_pb2.PushRequest.FromString(serde.message_to_bytes(message))
    assert layer_pb2.Kind.Name(parsed.identity.kind) == f"KIND_{kind.name}"
    assert tensor_pb2.Codec.Name(parsed.tensor.codec) == f"CODEC_{codec.removesuffix('+zstd').upper()}"
    assert parsed.tensor.HasField("compression") == codec.endswith("+zstd")
    assert f"torch.{tensor_pb2.Dtype.Name(parsed.tensor.dtype).removeprefix('DTYPE_').lower()}" == str(dtype)


WIRE_NUMBERS = [
    (part, name, value, number)
    for part, name, enum in (
        ("identity", "kind", layer_pb2.Kind),
        ("tensor", "dtype", tensor_pb2.Dtype),
        ("tensor", "codec", tensor_pb2.Codec),
    )
    for value, number in enum.items()
]


@pytest.mark.parametrize(("part", "name", "value", "number"), WIRE_NUMBERS)
def test_every_wire_number_of_the_protos_is_known_but_unspecified(part, name, value, number):
    request = generated(wires.message(checksum=False))
    setattr(getattr(request, part), name, number)
    request.tensor.own_codec = "own" if value == "CODEC_OWN" else ""
    if value.endswith("_UNSPECIFIED"):
        with pytest.raises(MessageRefused, match=f"layer 2 across boundary 2, step 0, has .*{name} 0"):
            serde.message_from_bytes(request.SerializeToString())
    else:
        loaded = serde.message_from_bytes(request.SerializeToString())
        found = {"kind": loaded.identity.kind.name, "dtype": str(loaded.dtype), "codec": loaded.codec}[name]
        assert found.removeprefix("torch.").upper() == value.removeprefix(f"{name.upper()}_")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=120))
@example(b"")
@example(b"\x12")
@example(b"\x12\x02\x7a\x00")
@example(b"\x12\x7f")
@example(b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")  # a length of 2^64 - 1
@example(b"\x80" * 11)
@example(b"\x0b\x0c")  # an empty group
@example(b"\x0a\x03\x0a\x01\xff\x12\x02\x7a\x00")  # a run id that is not UTF-8
def test_arbitrary_bytes_are_refused_and_nothing_else(data):
    try:
        serde.message_from_bytes(data)
    except MessageRefused as exc:
        assert str(exc)


@settings(max_examples=200, deadline=None)
@given(messages(), st.data())
def test_a_message_with_one_byte_changed_loads_or_is_refused_and_nothing_else(message, data):
    altered = bytearray(serde.message_to_bytes(message))
    # Most bytes are payload; the fields before it are the ones with rules to break.
    head = len(altered) - message.payload.nbytes
    position = data.draw(st.integers(0, head - 1) | st.integers(0, len(altered) - 1))
    altered[position] ^= data.draw(st.integers(1, 255))
    try:
        serde.message_from_bytes(bytes(altered))
    except MessageRefused as exc:
        assert str(exc)


@quickly
@given(messages(checksum=True), st.data())
def test_a_flipped_bit_in_the_payload_is_refused_by_sender_boundary_and_step(message, data):
    assume(message.payload.nbytes)
    altered = bytearray(serde.message_to_bytes(message))
    altered[-data.draw(st.integers(1, message.payload.nbytes))] ^= 1 << data.draw(st.integers(0, 7))
    who = message.identity
    named = f"from layer {who.sender} across boundary {who.boundary}, step {who.step}, micro-batch {who.micro_batch}"
    if who.kind in (Kind.GRADIENT, Kind.FIGURES):
        named = f"of layer {who.sender} from replica {who.replica}, step {who.step}, piece {who.micro_batch}"
    with pytest.raises(MessageRefused, match=re.escape(named) + ".*CRC-32C"):
        serde.message_from_bytes(bytes(altered))


def test_without_a_checksum_a_flipped_bit_goes_unseen():
    message = wires.message(checksum=False)
    altered = bytearray(serde.message_to_bytes(message))
    altered[-1] ^= 1
    assert not np.array_equal(serde.message_from_bytes(bytes(altered)).payload, message.payload)


def test_the_checksum_is_crc_32c():
    # The check value of CRC-32C: RFC 3720, B.4, and every catalogue of CRCs, for the text 123456789.
    assert serde.checksum(np.frombuffer(b"123456789", np.uint8)) == 0xE3069283


def test_a_message_with_two_tensors_or_two_payloads_is_refused():
    """Protobuf would merge them and keep the last; this reader does not guess."""
    request = generated(wires.message())
    data = request.SerializeToString()
    tensor = request.tensor.SerializeToString()
    with pytest.raises(MessageRefused, match="2 tensors where there must be one"):
        serde.message_from_bytes(data + field(2, tensor))
    with pytest.raises(MessageRefused, match="2 payloads where there must be one"):
        serde.message_from_bytes(field(1, request.identity.SerializeToString()) + field(2, tensor + field(15, b"more")))


def sound():
    """A message with nothing wrong."""
    flat = np.frombuffer(b"12345678", np.uint8)
    return Message(
        identity=Identity(run_id="r", boundary=2, kind=Kind.ERROR, sender=3, step=17, micro_batch=1),
        dtype=torch.float32,
        shape=(1, 2),
        codec="fp32",
        checksum=serde.checksum(flat),
        payload=flat,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": layer_pb2.KIND_UNSPECIFIED}, "layer 3 across boundary 2, step 17, has kind 0"),
        ({"codec": tensor_pb2.CODEC_UNSPECIFIED}, "codec 0, compression 0; one of these is unknown to this version"),
        ({"codec": 77}, "codec 77"),
        ({"dtype": tensor_pb2.DTYPE_UNSPECIFIED}, "dtype 0"),
        ({"shape": [1]}, r"shape \(1,\) is not \(rows, columns, \.\.\.\) of 2 to 8 axes"),
        ({"shape": [1] * 9}, r"of 2 to 8 axes"),
    ],
)
def test_what_this_version_does_not_know_is_refused(change, message):
    request = layer_pb2.PushRequest.FromString(serde.message_to_bytes(sound()))
    for name, value in change.items():
        if name == "shape":
            request.tensor.shape[:] = value
        else:
            setattr(request.identity if name == "kind" else request.tensor, name, value)
    with pytest.raises(MessageRefused, match=message):
        serde.message_from_bytes(request.SerializeToString())
