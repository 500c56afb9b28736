"""Every codec gives back what it was given, within its bound, in memory of its own, and never hides NaN."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distfa.codecs import CODECS, LOSSLESS, carry, resolve

DTYPES = (torch.float32, torch.float64)
SMALLEST = 2.0**-149  # of float32's subnormal numbers
MAGNITUDES = (0.0, SMALLEST, 1e-43, 1e-40, 1e-30, 1e-3, 1.0, 1e4, 1e30, 3e38)

codecs = st.sampled_from(list(CODECS.values()))
plain_codecs = st.sampled_from([codec for name, codec in CODECS.items() if "+" not in name])
dtypes = st.sampled_from(DTYPES)
shapes = st.one_of(
    st.just((1, 1)),
    st.tuples(st.just(1), st.integers(1, 40)),
    st.tuples(st.integers(1, 40), st.just(1)),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.just((2, 3001)),
)
quickly = settings(max_examples=40, deadline=None)


@st.composite
def signals(draw, dtype=None):
    """Rows of very different magnitudes, all within float32's range."""
    rows, columns = draw(shapes)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    per_row = draw(st.lists(st.sampled_from(MAGNITUDES), min_size=rows, max_size=rows))
    numbers = rng.uniform(-1, 1, (rows, columns)) * np.array(per_row)[:, None]
    return torch.tensor(numbers).to(dtype or draw(dtypes))


def unaligned(payload):
    """The same bytes at an odd address, as a payload inside a message may lie."""
    room = np.empty(payload.nbytes + 128, np.uint8)
    start = 64 - room.ctypes.data % 64 + 1
    view = room[start : start + payload.nbytes]
    view[:] = payload
    assert view.ctypes.data % 2 == 1
    return view


def error_bound(codec, signal):
    """What the codecs' docstrings promise, per number; shape as the signal, float64."""
    x = signal.double().abs()
    if codec.lossless(signal.dtype):
        return torch.zeros_like(x)
    name = codec.name.removesuffix("+zstd")
    if name == "fp32":
        # Half a unit of 24 bits; where float32 is subnormal, half of its smallest number.
        return x * 2.0**-24 + SMALLEST / 2
    if name == "bf16":
        # Half a unit of 8 bits. Below 2^-126 a unit is 2^-133, and a float64 is rounded to float32 on the way.
        return torch.where(x >= 2.0**-126, x * 2.0**-8, 2.0**-134 + SMALLEST / 2)
    largest = x.amax(dim=1, keepdim=True).expand_as(x)
    if name == "fp8":
        # Half a unit of 4 bits; below 2^-6 of the scale a unit is 2^-9 of it. 2^-140: a subnormal scale is off by up
        # to 2^-150, 448 times over.
        return torch.maximum(x * 2.0**-4, largest * 2.0**-18) + 2.0**-140
    # Half a step of the row's scale, or a whole one. 2^-22: float32 rounds the scale, the quotient and the product.
    # 2^-142: a subnormal scale is off by up to 2^-150, 127 times over.
    steps = {"int8": 1 / 254, "int4": 1 / 14, "int4sr": 1 / 7}
    if name in steps:
        return largest * (steps[name] + 2.0**-22) + 2.0**-142
    levels = {"uint8": (255, 127), "uint4": (15, 7), "uint2": (3, 1)}[name]
    signed = (signal < 0).any(dim=1, keepdim=True)
    # 2^-141: as above, 255 times over.
    return largest * (torch.where(signed, 0.5 / levels[1], 0.5 / levels[0]) + 2.0**-22) + 2.0**-141


@quickly
@given(codecs, signals())
def test_a_decoded_number_is_within_the_codecs_bound(codec, signal):
    rows, columns = signal.shape
    decoded = codec.decode(codec.encode(signal), rows, columns, signal.dtype)
    assert decoded.shape == signal.shape
    assert decoded.dtype == signal.dtype
    # 3e38 lies within the range of every codec, so everything decoded is finite.
    assert torch.isfinite(decoded).all()
    assert ((decoded.double() - signal.double()).abs() <= error_bound(codec, signal)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_lossless_is_said_of_exactly_the_codecs_as_wide_as_the_run(codec, dtype):
    expected = {torch.float32: {"fp32", "fp64", "packed"}, torch.float64: {"fp64", "packed"}}[dtype]
    assert codec.lossless(dtype) == (codec.name.removesuffix("+zstd") in expected)


@quickly
@given(st.data(), dtypes)
def test_a_lossless_codec_keeps_every_bit_even_of_odd_numbers(data, dtype):
    codec = data.draw(st.sampled_from([c for c in CODECS.values() if c.lossless(dtype)]))
    numbers = data.draw(st.lists(st.floats(width=32), min_size=1, max_size=20))
    signal = torch.tensor([numbers], dtype=dtype)
    decoded = codec.decode(codec.encode(signal), 1, len(numbers), dtype)
    np.testing.assert_array_equal(decoded.numpy(), signal.numpy())
    assert torch.equal(torch.signbit(decoded[~decoded.isnan()]), torch.signbit(signal[~signal.isnan()]))


@quickly
@given(plain_codecs, signals())
def test_a_payload_has_the_length_the_codec_says(codec, signal):
    payload = codec.encode(signal)
    rows, columns = signal.shape
    number = signal.dtype.itemsize
    row_bytes = {
        "fp64": 8 * columns,
        "fp32": 4 * columns,
        "bf16": 2 * columns,
        "fp8": 4 + columns,
        "int8": 4 + columns,
        "int4": 4 + -(-columns // 2),
        "int4sr": 4 + -(-columns // 2),
        "uint8": 4 + columns,
        "uint4": 4 + -(-columns // 2),
        "uint2": 4 + -(-columns // 4),
        "packed": -(-columns // 8) + number * columns,
    }[codec.name]
    left_out = number * int((signal == 0).sum() - (signal.signbit() & (signal == 0)).sum())
    assert payload.dtype == np.uint8
    assert payload.ndim == 1
    assert codec.max_payload_bytes(rows, columns, signal.dtype) == rows * row_bytes
    assert payload.nbytes == rows * row_bytes - (left_out if codec.name == "packed" else 0)


@quickly
@given(plain_codecs, signals(), st.integers(-9, 9).filter(bool))
def test_a_payload_of_another_length_is_refused(codec, signal, change):
    payload = codec.encode(signal)
    altered = np.resize(payload, max(0, payload.nbytes + change))
    with pytest.raises(ValueError, match=f"got {altered.nbytes} bytes, expected"):
        codec.decode(altered, *signal.shape, signal.dtype)


@settings(max_examples=200, deadline=None)
@given(codecs, dtypes, st.integers(0, 3), st.integers(1, 9), st.binary(max_size=60))
def test_arbitrary_bytes_are_a_signal_or_a_value_error_and_nothing_else(codec, dtype, rows, columns, data):
    try:
        decoded = codec.decode(np.frombuffer(data, np.uint8), rows, columns, dtype)
    except ValueError as exc:
        assert re.match(
            r"got \d+ bytes, expected|it claims|it marks|its \d+ bytes are not a single zstd frame", str(exc)
        )
    else:
        assert (decoded.shape, decoded.dtype) == ((rows, columns), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_a_signal_without_rows_has_an_empty_payload(codec, dtype):
    signal = torch.empty(0, 5, dtype=dtype)
    payload = codec.encode(signal)
    assert payload.nbytes == 0
    assert torch.equal(codec.decode(payload, 0, 5, dtype), signal)


@quickly
@given(codecs, signals())
def test_decode_fills_aligned_memory_of_its_own_even_from_an_unaligned_payload(codec, signal):
    rows, columns = signal.shape
    payload = unaligned(codec.encode(signal))
    decoded = codec.decode(payload, rows, columns, signal.dtype)
    assert decoded.data_ptr() % 64 == 0
    assert decoded.is_contiguous()
    assert not np.shares_memory(decoded.numpy(), payload)
    before = decoded.clone()
    payload[:] = 0x55
    assert torch.equal(decoded, before)


@quickly
@given(codecs, signals())
def test_decode_reads_a_payload_that_cannot_be_written(codec, signal):
    """Payloads are views of received bytes."""
    rows, columns = signal.shape
    payload = np.frombuffer(codec.encode(signal).tobytes(), np.uint8)
    decoded = codec.decode(payload, rows, columns, signal.dtype)
    assert torch.equal(decoded, codec.decode(codec.encode(signal), rows, columns, signal.dtype))
    decoded.zero_()  # the receiver may


@quickly
@given(codecs, signals(), st.sampled_from([float("nan"), float("inf"), -float("inf")]), st.data())
def test_a_row_with_nan_or_infinity_never_decodes_to_a_finite_row_and_the_others_do(codec, signal, bad, data):
    rows, columns = signal.shape
    row, column = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    others = carry(codec, signal).clone()
    signal[row, column] = bad
    decoded = codec.decode(codec.encode(signal), rows, columns, signal.dtype)
    assert not torch.isfinite(decoded[row]).all()
    keep = torch.arange(rows) != row
    # The dither of int4sr follows from the whole signal, that of the other rows too.
    assert (
        torch.isfinite(decoded[keep]).all()
        if codec.name.startswith("int4sr")
        else torch.equal(decoded[keep], others[keep])
    )


@pytest.mark.parametrize("name", [name for name, codec in CODECS.items() if not codec.lossless(torch.float64)])
def test_a_float64_beyond_float32_never_decodes_to_a_finite_number(name):
    """Scales and the floats on the wire end where float32 ends; the loss of it must be seen."""
    decoded = carry(CODECS[name], torch.tensor([[1e300, 1.0]], dtype=torch.float64))
    assert not torch.isfinite(decoded[0, 0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_zeros_stay_zeros_beside_a_row_that_is_not(codec, dtype):
    signal = torch.zeros(3, 7, dtype=dtype)
    signal[1] = 127.0
    carried = carry(codec, signal)
    assert torch.equal(carried[::2], signal[::2])
    assert torch.allclose(carried[1], signal[1], rtol=2.0**-23)  # a scale times its top, each rounded once


TOPS = {"int8": (127, 127), "int4": (7, 7), "int4sr": (7, 7), "fp8": (448, 0x7E)}  # the number, and its bits


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "top", "bits"), [(name, *top) for name, top in TOPS.items()])
def test_the_largest_magnitude_of_a_row_takes_the_largest_level(name, top, bits, dtype):
    signal = torch.tensor([[3.0 * top, 0.0], [top / 8, 0.0]], dtype=dtype)
    scales, levels = CODECS[name].encode(signal)[:8].view(np.float32), CODECS[name].encode(signal)[8:]
    np.testing.assert_array_equal(scales, np.array([3, 0.125], np.float32))
    np.testing.assert_array_equal(levels.reshape(2, -1)[:, 0], [bits, bits])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "top"), [(name, top) for name, (top, _) in TOPS.items()])
def test_a_scale_too_small_for_float32_turns_no_number_around(name, top, dtype):
    """1.4 of float32's smallest number is rounded to 1, so that a quotient of 1.4 times the top comes out."""
    largest = round(1.4 * top) * SMALLEST
    signal = torch.tensor([[largest, -largest]], dtype=dtype)
    assert torch.equal(carry(CODECS[name], signal), torch.tensor([[top, -top]], dtype=dtype) * SMALLEST)


@quickly
@given(codecs, signals())
def test_carry_is_what_the_receiver_decodes(codec, signal):
    rows, columns = signal.shape
    given_signal = signal.clone()
    carried = carry(codec, signal)
    assert torch.equal(carried, codec.decode(codec.encode(signal), rows, columns, signal.dtype))
    assert torch.equal(signal, given_signal)  # neither changes what it was given


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_what_is_sent_twice_is_the_same_as_once(codec, dtype):
    signal = torch.randn(6, 11, dtype=dtype, generator=torch.Generator().manual_seed(0))
    once = carry(codec, signal)
    assert torch.equal(carry(codec, once), once)


@quickly
@given(codecs, signals(), st.sampled_from(["transposed", "column", "every other", "grad", "loose strides"]))
def test_how_a_signal_lies_in_memory_does_not_change_its_payload(codec, signal, layout):
    """A single column with a stride, which torch calls contiguous, once could not be viewed as bytes."""
    given_signal = {
        "transposed": lambda: signal.t(),
        "column": lambda: signal[:, :1],
        "every other": lambda: signal[:, ::2],
        "grad": lambda: signal.clone().requires_grad_(),
        "loose strides": lambda: torch.empty_strided((1, 1), (5, 3), dtype=signal.dtype).copy_(signal[:1, :1]),
    }[layout]()
    packed = torch.from_numpy(np.array(given_signal.detach().tolist())).to(signal.dtype)
    np.testing.assert_array_equal(codec.encode(given_signal), codec.encode(packed))


@quickly
@given(codecs, signals(dtype=torch.float32))
def test_a_bfloat16_signal_is_carried_as_the_float32_it_equals_and_rounded_once(codec, signal):
    """Levels once were computed in bfloat16 itself, whose eight bits cannot tell 126.5 from 127."""
    narrow = signal.bfloat16()
    rows, columns = narrow.shape
    payload = codec.encode(narrow)
    assert payload.nbytes <= codec.max_payload_bytes(rows, columns, torch.bfloat16)
    decoded = codec.decode(payload, rows, columns, torch.bfloat16)
    assert torch.equal(decoded, carry(codec, narrow.float()).bfloat16())
    assert codec.lossless(torch.bfloat16) == (codec.name.removesuffix("+zstd") in ("bf16", "fp32", "fp64", "packed"))
    if codec.lossless(torch.bfloat16):
        assert torch.equal(decoded, narrow)


@pytest.mark.parametrize(
    ("dtype", "name"), [(torch.float32, "fp32"), (torch.float64, "fp64"), (torch.bfloat16, "bf16")]
)
def test_lossless_resolves_to_the_codec_of_the_runs_dtype(dtype, name):
    assert resolve(LOSSLESS, dtype) is CODECS[name]
    assert resolve(LOSSLESS, dtype).lossless(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CODECS)
def test_any_other_name_resolves_to_the_codec_of_that_name(name, dtype):
    assert resolve(name, dtype).name == name
    assert resolve(name, dtype).error_bound
