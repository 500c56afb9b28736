"""Messages are valid protobuf, read without copying, and bad bytes are refused by name."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distfa.codecs import CODECS
from distfa.errors import MessageRefused
from distfa.transport import serde
from distfa.transport.message import Identity, Kind, Message
from distfa.v1 import layer_pb2, tensor_pb2

messages = st.builds(
    lambda run, boundary, kind, sender, step, micro, dtype, shape, codec, payload, check: Message(
        identity=Identity(run_id=run, boundary=boundary, kind=kind, sender=sender, step=step, micro_batch=micro),
        dtype=dtype,
        shape=shape,
        codec=codec,
        checksum=serde.checksum(np.frombuffer(payload, np.uint8)) if check else None,
        payload=np.frombuffer(payload, np.uint8),
    ),
    st.text(max_size=40),
    st.integers(0, 2**32 - 1),
    st.sampled_from(Kind),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.sampled_from([torch.float32, torch.float64]),
    st.tuples(st.integers(0, 2**31), st.integers(0, 2**31)),
    st.sampled_from(sorted(CODECS)),
    st.binary(min_size=1, max_size=300),
    st.booleans(),
)


def example(payload=b"12345678"):
    flat = np.frombuffer(payload, np.uint8)
    return Message(
        identity=Identity(run_id="r", boundary=2, kind=Kind.ERROR, sender=3, step=17, micro_batch=1),
        dtype=torch.float32,
        shape=(1, 2),
        codec="fp32",
        checksum=serde.checksum(flat),
        payload=flat,
    )


def same(a, b):
    return (a.identity, a.dtype, a.shape, a.codec, a.checksum, a.payload.tobytes()) == (
        b.identity,
        b.dtype,
        b.shape,
        b.codec,
        b.checksum,
        b.payload.tobytes(),
    )


@settings(max_examples=80, deadline=None)
@given(messages)
def test_what_is_dumped_loads_and_is_what_protobuf_reads_and_writes(message):
    data = serde.dump(message)
    assert same(serde.load(data), message)
    parsed = layer_pb2.PushRequest.FromString(data)
    assert parsed.identity.step == message.identity.step
    assert parsed.identity.run_id == message.identity.run_id
    assert tuple(parsed.tensor.shape) == message.shape
    assert parsed.tensor.payload == message.payload.tobytes()
    assert parsed.tensor.HasField("crc32c") == (message.checksum is not None)
    assert same(serde.load(parsed.SerializeToString()), message)


def test_the_payload_is_a_view_of_the_message():
    data = serde.dump(example())
    assert np.shares_memory(serde.load(data).payload, np.frombuffer(data, np.uint8))


def test_fields_in_another_order_and_unknown_ones_are_read():
    head = layer_pb2.PushRequest.FromString(serde.dump(example()))
    tensor, identity = layer_pb2.PushRequest(tensor=head.tensor), layer_pb2.PushRequest(identity=head.identity)
    unknown = bytes([99 << 3 & 0x7F | 0x80 | 0, 99 >> 4, 5])  # field 99, a varint
    data = tensor.SerializeToString() + unknown + identity.SerializeToString()
    assert same(serde.load(data), example())


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=80))
def test_arbitrary_bytes_load_or_are_refused(data):
    try:
        serde.load(data)
    except MessageRefused as exc:
        assert str(exc)


def test_every_single_byte_change_loads_or_is_refused():
    data = serde.dump(example())
    for position in range(len(data)):
        for change in (1, 0x80, 0xFF):
            altered = bytearray(data)
            altered[position] ^= change
            try:
                serde.load(bytes(altered))
            except MessageRefused:
                continue
    for length in range(len(data)):
        with pytest.raises(MessageRefused, match="no distfa.v1.PushRequest"):
            serde.load(data[:length])


def test_a_flipped_payload_bit_is_refused_by_sender_boundary_and_step():
    data = bytearray(serde.dump(example()))
    data[-1] ^= 1
    with pytest.raises(MessageRefused, match=r"error from layer 3 across boundary 2, step 17.*CRC-32C is .* altered"):
        serde.load(bytes(data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": layer_pb2.KIND_UNSPECIFIED}, "layer 3 across boundary 2, step 17, has kind 0"),
        ({"codec": tensor_pb2.CODEC_UNSPECIFIED}, "codec 0; this version of distfa does not know"),
        ({"codec": 77}, "codec 77"),
        ({"dtype": tensor_pb2.DTYPE_UNSPECIFIED}, "dtype 0"),
        ({"shape": [1, 2, 3]}, r"shape \(1, 2, 3\) is not \(rows, columns\)"),
    ],
)
def test_what_this_version_does_not_know_is_refused(change, message):
    request = layer_pb2.PushRequest.FromString(serde.dump(example()))
    for name, value in change.items():
        if name == "shape":
            request.tensor.shape[:] = value
        else:
            setattr(request.identity if name == "kind" else request.tensor, name, value)
    with pytest.raises(MessageRefused, match=message):
        serde.load(request.SerializeToString())


def test_the_tables_name_every_number_of_the_protos():
    def numbers(enum):
        return {value for name, value in enum.items() if not name.endswith("UNSPECIFIED")}

    assert set(serde._CODECS) == set(CODECS)
    assert set(serde._CODECS.values()) == numbers(tensor_pb2.Codec)
    assert set(serde._KINDS) == set(Kind)
    assert set(serde._KINDS.values()) == numbers(layer_pb2.Kind)
    assert set(serde._DTYPES.values()) == numbers(tensor_pb2.Dtype)
