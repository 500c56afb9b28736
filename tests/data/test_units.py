"""Raw and normalised samples are told apart by their numbers; what the numbers do not say is refused."""

import logging

import numpy as np
import pytest

from distfa.data.build import build_dataset
from distfa.data.reading import Reading
from distfa.data.units import AS_THEY_ARE, is_same_scale, scale_for
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
    return "normalised" if is_same_scale(scale, AS_THEY_ARE) else "raw"


def trained(make, rng):
    """The reading of a data set, and its scale."""
    found = build_dataset(name="x", train=(make(rng, 2000), np.zeros(2000, int)), outputs=2)
    return Reading.of(found), (found.mean, found.std)


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.ERROR)


@pytest.mark.parametrize("make", [strokes, photographs])
@pytest.mark.parametrize("rows", [1, 4, 50])
def test_bytes_are_told_from_normalised_ones_exactly(make, rows):
    rng = np.random.default_rng(0)
    reading, (mean, std) = trained(make, rng)
    for _ in range(20):
        raw = make(rng, rows)
        normalised = (raw - mean) / std
        assert {told(given, reading) for given in (raw, raw.astype(np.float32), raw.astype(np.int64))} == {"raw"}
        assert {told(given, reading) for given in (normalised, normalised.astype(np.float32))} == {"normalised"}


@pytest.mark.parametrize("make", [shares, quantities])
@pytest.mark.parametrize(("rows", "may_be"), [(4, {"refused"}), (50, set())])
def test_floats_are_told_by_mean_and_spread_or_refused_where_they_are_few(make, rows, may_be):
    rng = np.random.default_rng(0)
    reading, (mean, std) = trained(make, rng)
    for _ in range(20):
        raw = make(rng, rows)
        assert told(raw, reading) in {"raw"} | may_be
        assert told((raw - mean) / std, reading) in {"normalised"} | may_be


@pytest.mark.parametrize("make", [strokes, photographs])
@pytest.mark.parametrize("change", [lambda x: x / 255, lambda x: x / 127.5 - 1])
def test_bytes_in_other_units_are_neither_raw_nor_normalised(make, change):
    rng = np.random.default_rng(0)
    reading, _ = trained(make, rng)
    assert {told(change(make(rng, 50)), reading) for _ in range(20)} == {"refused"}


def test_where_both_readings_give_the_same_numbers_there_is_no_doubt():
    x = np.random.default_rng(0).standard_normal((500, 20))
    x = (x - x.mean()) / x.std()
    reading = Reading.of(build_dataset(name="x", train=(x, np.zeros(500, int)), outputs=2))
    assert told(x[:1], reading) == "raw"
    other = Reading.of(build_dataset(name="x", train=(x * 0.9 + 0.1, np.zeros(500, int)), outputs=2))
    assert told(x, other) == "refused"
