"""Raw and normalised samples are told apart by their numbers, or refused; never is one taken for the other."""

import logging

import numpy as np
import pytest

from distfa.data.build import build
from distfa.data.reading import Reading
from distfa.data.units import AS_THEY_ARE, equal, scale_for
from distfa.errors import DataError


def strokes(rng, rows):
    """Images like handwritten digits: few values that are not 0."""
    drawn = rng.random((rows, 400)) < rng.uniform(0.08, 0.3, (rows, 1))
    return (drawn * rng.integers(100, 256, (rows, 400))).astype(np.uint8)


def photographs(rng, rows):
    """Images that each have a brightness and a contrast of their own."""
    bright, contrast = rng.normal(120, 40, (rows, 1)), np.abs(rng.normal(50, 20, (rows, 1))) + 5
    return np.clip(bright + contrast * rng.standard_normal((rows, 300)), 0, 255).astype(np.uint8)


def shares(rng, rows):
    return photographs(rng, rows).astype(np.float32) / 255


def quantities(rng, rows):
    """Columns that each have a mean and a spread of their own."""
    columns = np.random.default_rng(9)
    return rng.standard_normal((rows, 20)) * columns.uniform(0.5, 30, 20) + columns.uniform(-20, 20, 20)


def told(x, reading):
    """raw, normalised or refused."""
    try:
        scale = scale_for(np.ascontiguousarray(x), AS_THEY_ARE, reading, normalised=None, where="x")
    except DataError:
        return "refused"
    return "normalised" if equal(scale, AS_THEY_ARE) else "raw"


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.ERROR)


@pytest.mark.parametrize("make", [strokes, photographs, shares, quantities])
def test_raw_and_normalised_samples_are_never_taken_for_each_other(make):
    rng = np.random.default_rng(0)
    trained = build(name="x", train=(make(rng, 2000), np.zeros(2000, int)), outputs=2)
    reading, bytes_ = Reading.of(trained), make in (strokes, photographs)
    for rows in (1, 4, 50):
        for _ in range(20):
            raw = make(rng, rows)
            normalised = (raw - trained.mean) / trained.std
            for given in (raw, raw.astype(np.float32)):
                assert told(given, reading) in (("raw",) if bytes_ or rows > 4 else ("raw", "refused"))
            for given in (normalised, normalised.astype(np.float32)):
                assert told(given, reading) in (("normalised",) if bytes_ or rows > 4 else ("normalised", "refused"))


@pytest.mark.parametrize("make", [strokes, photographs])
@pytest.mark.parametrize("change", [lambda x: x / 255, lambda x: x / 127.5 - 1])
def test_bytes_in_other_units_are_neither_raw_nor_normalised(make, change):
    rng = np.random.default_rng(0)
    reading = Reading.of(build(name="x", train=(make(rng, 2000), np.zeros(2000, int)), outputs=2))
    assert {told(change(make(rng, 50)), reading) for _ in range(20)} == {"refused"}


def test_where_both_readings_give_the_same_numbers_there_is_no_doubt():
    x = np.random.default_rng(0).standard_normal((500, 20))
    x = (x - x.mean()) / x.std()
    reading = Reading.of(build(name="x", train=(x, np.zeros(500, int)), outputs=2))
    assert told(x[:1], reading) == "raw"
    other = Reading.of(build(name="x", train=(x * 0.9 + 0.1, np.zeros(500, int)), outputs=2))
    assert told(x, other) == "refused"
