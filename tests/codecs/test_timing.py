"""The timing of a codec is of the signal it says, and leaves torch as it was."""

import pytest
import torch

from distfa.codecs import CODECS
from distfa.codecs.timing import time_codec


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_a_measurement_has_times_and_the_bytes_of_the_shape(codec):
    encode_seconds, decode_seconds, payload_bytes = time_codec(codec, 8, 21, zeros=0.0)
    assert encode_seconds > 0
    assert decode_seconds > 0
    longest = codec.max_payload_bytes(8, 21, torch.float32)
    assert 0 < payload_bytes <= longest
    assert payload_bytes == longest or not codec.fixed_length


@pytest.mark.parametrize(("zeros", "share"), [(0.0, 1.0), (0.25, 0.75), (0.9, 0.1), (1.0, 0.0)])
def test_packed_sends_the_numbers_that_are_not_zero(zeros, share):
    sent = time_codec(CODECS["packed"], 256, 64, zeros=zeros).payload_bytes
    # A binomial count of 16384 numbers: 5 standard deviations are 0.02 of them.
    assert (sent - 256 * 8) / (256 * 64 * 4) == pytest.approx(share, abs=0.02)


def test_a_measurement_is_made_on_one_thread_and_gives_the_others_back(monkeypatch):
    codec, seen = CODECS["int8"], set()
    encode = type(codec).encode
    monkeypatch.setattr(type(codec), "encode", lambda self, x: seen.add(torch.get_num_threads()) or encode(self, x))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        time_codec(codec, 2, 3)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert 1 in seen
