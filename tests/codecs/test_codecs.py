"""Codecs: round trips within derived bounds, exact lengths, aligned memory, bad values kept bad."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distfa.codecs import CODECS, carry, resolve

DTYPES = [torch.float32, torch.float64]
shapes = st.tuples(st.integers(1, 9), st.integers(1, 40))


def signal(rows, columns, seed, scale, dtype):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator, dtype=torch.float64) * scale
    x[0] = 0  # a row of zeros has no scale
    return x.to(dtype)


def bound(name, x):
    """Largest error of each number, from the codec's definition."""
    if CODECS[name].lossless(x.dtype):
        return torch.zeros_like(x)
    if name == "fp32":
        return x.abs() * 2.0**-24
    if name == "bf16":
        return x.abs() * 2.0**-8
    # half a step of the row's scale; the scale itself is rounded to float32, 127 steps away
    return (x.abs().amax(1, keepdim=True) / 254 * (1 + 1e-5)).expand_as(x)


@settings(max_examples=40, deadline=None)
@given(shapes, st.integers(0, 99), st.sampled_from([1e-12, 1.0, 1e9]), st.sampled_from(DTYPES))
@pytest.mark.parametrize("name", CODECS)
def test_round_trip_is_within_the_derived_bound_and_the_length_exact(name, shape, seed, scale, dtype):
    codec, x = CODECS[name], signal(*shape, seed, scale, dtype)
    payload = codec.encode(x)
    assert payload.nbytes == codec.payload_bytes(*shape)
    decoded = codec.decode(payload, *shape, dtype)
    assert decoded.dtype == dtype
    assert ((decoded - x).abs() <= bound(name, x)).all()
    assert torch.equal(carry(codec, x), decoded)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("offset", [1, 4, 7])
def test_decoding_an_unaligned_payload_gives_aligned_memory_of_its_own(name, offset):
    codec, x = CODECS[name], signal(5, 11, 0, 1.0, torch.float32)
    payload = codec.encode(x)
    buffer = np.zeros(payload.nbytes + offset, np.uint8)
    buffer[offset:] = payload
    decoded = codec.decode(buffer[offset:], 5, 11, torch.float32)
    assert decoded.data_ptr() % 64 == 0
    before = decoded.clone()
    buffer[:] = 0
    assert torch.equal(decoded, before)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_bad_value_stays_bad(name, bad):
    x = signal(3, 6, 0, 1.0, torch.float32)
    x[1, 2] = bad
    assert not torch.isfinite(carry(CODECS[name], x)[1]).all()


def test_lossless_is_the_codec_of_the_runs_dtype():
    assert [resolve("lossless", dtype).name for dtype in DTYPES] == ["fp32", "fp64"]
    assert all(resolve("lossless", dtype).lossless(dtype) for dtype in DTYPES)
    assert [name for name, codec in CODECS.items() if codec.lossless(torch.float32)] == ["fp32", "fp64"]
    assert [name for name, codec in CODECS.items() if codec.lossless(torch.float64)] == ["fp64"]


def test_a_strided_signal_is_written_row_by_row():
    x = torch.arange(12, dtype=torch.float32).reshape(3, 4).t()
    assert torch.equal(CODECS["fp32"].decode(CODECS["fp32"].encode(x), 4, 3, torch.float32), x)
