"""Random numbers from a secret key: ChaCha20 by place, and normal numbers made from it."""

import math

import numpy as np
import pytest

from distfa.privacy.sampling import draw_batches
from distfa.privacy.stream import Stream

KEY = bytes(range(32))


def test_bytes_are_those_of_chacha20():
    # RFC 8439, appendix A.1, test vector 1: key, nonce and counter are 0
    expected = bytes.fromhex("76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7")
    assert Stream(bytes(32)).integers(0, 4).tobytes() == expected


def test_the_same_place_gives_the_same_numbers_and_every_other_place_others():
    stream = Stream(KEY)
    first = stream.normals(5, 8, part=1)
    assert np.array_equal(first, Stream(KEY).normals(5, 8, part=1))
    others = [stream.normals(6, 8, part=1), stream.normals(5, 8, part=2), Stream(bytes(32)).normals(5, 8, part=1)]
    assert not any(np.isin(first, other).any() for other in others)


def test_fewer_numbers_of_a_place_are_drawn_from_the_same_bytes():
    assert np.array_equal(Stream(KEY).integers(3, 4), Stream(KEY).integers(3, 9)[:4])


def test_normal_numbers_have_the_normal_distribution():
    count = 400_000
    drawn = np.sort(Stream(KEY).normals(0, count))
    cumulative = np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in drawn])
    # Kolmogorov & Smirnov: above 1.95 / sqrt(n) once in 1,000 keys, and this key is fixed
    assert np.abs(cumulative - np.arange(1, count + 1) / count).max() < 1.95 / math.sqrt(count)


def test_an_odd_number_of_normals_and_none():
    assert Stream(KEY).normals(0, 7).shape == (7,)
    assert Stream(KEY).normals(0, 0).shape == (0,)


def test_no_key_is_shown():
    assert KEY.hex() not in repr(Stream(KEY))
    assert repr(KEY) not in repr(Stream(KEY))


def test_every_sample_takes_part_by_itself_at_the_rate():
    samples, expected, steps = 200, 20, 2000
    batches = draw_batches(Stream(KEY), samples=samples, expected=expected, steps=steps)
    drawn = np.zeros((steps, samples))
    for step, batch in enumerate(batches):
        drawn[step, batch] = 1
    rate = expected / samples
    assert drawn.mean() == pytest.approx(rate, abs=5 * math.sqrt(rate * (1 - rate) / drawn.size))
    # by itself: the variance of a batch's size is that of independent draws, not 0 as for batches of one size
    assert drawn.sum(1).var() == pytest.approx(samples * rate * (1 - rate), rel=0.15)
    assert np.abs(np.corrcoef(drawn[:, :20].T) - np.eye(20)).max() < 5 / math.sqrt(steps)


def test_batches_may_be_empty():
    sizes = {len(batch) for batch in draw_batches(Stream(KEY), samples=50, expected=1, steps=50)}
    assert 0 in sizes
    assert max(sizes) > 1


def test_at_rate_one_everybody_takes_part():
    batches = draw_batches(Stream(KEY), samples=3, expected=3, steps=2)
    assert [batch.tolist() for batch in batches] == [[0, 1, 2]] * 2
