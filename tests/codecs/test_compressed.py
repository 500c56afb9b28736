"""name+zstd is the codec itself, shorter: the same numbers, and no frame can ask for more memory than a signal has."""

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import ThreadRun, assert_same_bits, recipe, run_serial

from distfa.codecs import CODECS, carry

PAIRS = [(name, f"{name}+zstd") for name in CODECS if "+" not in name]


def activations(rows=64, columns=333):
    """Two thirds zeros, as after a ReLU."""
    return torch.relu(torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) - 0.43)


@pytest.mark.parametrize(("plain", "compressed"), PAIRS)
@pytest.mark.parametrize("signal", [activations(), torch.randn(7, 5), torch.zeros(3, 9), torch.empty(0, 4)], ids=len)
def test_it_decodes_to_what_the_codec_itself_gives(plain, compressed, signal):
    assert torch.equal(carry(CODECS[compressed], signal), carry(CODECS[plain], signal))
    payload = CODECS[compressed].encode(signal)
    assert payload.nbytes <= CODECS[compressed].max_payload_bytes(*signal.shape, signal.dtype)


@pytest.mark.parametrize(("name", "bits"), [("int8", 4.3), ("int4", 2.3), ("uint4", 2.6), ("uint2", 1.4)])
def test_activations_of_two_thirds_zeros_take_few_bits(name, bits):
    """Less than twice their entropy, and about half of what the codec alone sends."""
    signal = activations()
    assert 8 * CODECS[f"{name}+zstd"].encode(signal).nbytes / signal.numel() < bits


def test_no_zstd_makes_it_longer_than_its_bound():
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (300, 4000), np.uint8)).view(torch.float32)
    codec = CODECS["fp32+zstd"]
    assert 300 * 4000 < codec.encode(noise).nbytes <= codec.max_payload_bytes(300, 1000, torch.float32)


@pytest.mark.parametrize("size", [101, 2**40], ids=["a row more", "a terabyte"])
def test_a_frame_that_says_too_much_is_refused_before_memory_is_taken(size):
    head = b"\x28\xb5\x2f\xfd" + bytes([0b11100000]) + size.to_bytes(8, "little")  # 8 bytes of length, one segment
    payload = np.frombuffer(head + b"\x01\x00\x00", np.uint8)
    with pytest.raises(ValueError, match=f"it claims to hold {size} bytes, expected at most 100"):
        CODECS["fp32+zstd"].decode(payload, 5, 5, torch.float32)


@given(st.data(), st.sampled_from([pair[1] for pair in PAIRS]))
@settings(max_examples=100, deadline=None)
def test_an_altered_frame_is_a_signal_or_a_value_error(data, name):
    signal = activations(3, 40)
    payload = CODECS[name].encode(signal).copy()
    place = data.draw(st.integers(0, payload.nbytes - 1))
    payload[place] ^= data.draw(st.integers(1, 255))
    kept = data.draw(st.integers(0, payload.nbytes))
    try:
        found = CODECS[name].decode(payload[:kept], 3, 40, signal.dtype)
    except ValueError:
        return
    assert found.shape == signal.shape


def test_bytes_after_the_frame_are_refused():
    payload = np.frombuffer(zstandard.ZstdCompressor().compress(bytes(100)) + b"more", np.uint8)
    with pytest.raises(ValueError, match="its .* bytes are not a single zstd frame"):
        CODECS["fp32+zstd"].decode(payload, 5, 5, torch.float32)


@pytest.mark.parametrize(("rule", "up", "down"), [("dfa", "int4+zstd", "uint4"), ("fa", "packed+zstd", "int8+zstd")])
def test_a_run_over_grpc_equals_the_serial_run(rule, up, down):
    r = recipe(rule=rule, micro_batches=2)
    with ThreadRun(r, activations=up, errors=down) as run:
        found, _ = run.train()
    assert_same_bits(found, run_serial(r, activations=up, errors=down)[0])


@pytest.mark.parametrize(("bits", "levels", "signed"), [(8, 255, 127), (4, 15, 7), (2, 3, 1)])
def test_unsigned_levels_are_all_used_and_a_negative_number_is_never_clipped(bits, levels, signed):
    codec = CODECS[f"uint{bits}"]
    for top, low in ((levels, 0), (signed, -signed)):
        signal = torch.arange(low, top + 1).float().mul(0.25)[None]
        assert torch.equal(carry(codec, signal), signal)
