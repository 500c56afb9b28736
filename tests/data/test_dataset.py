from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest

from distfa.data import Dataset, from_arrays, validate
from distfa.data.build import build_dataset, measure_mean_and_std
from distfa.errors import DataError


def good(**changes: object) -> Dataset:
    fields = {
        "name": "toy",
        "train_x": np.arange(12, dtype=np.float32).reshape(4, 3),
        "train_y": np.array([0, 1, 2, 1]),
        "test_x": np.zeros((2, 3), np.float32),
        "test_y": np.array([0, 2]),
        "outputs": 3,
        "mean": np.zeros(1),
        "std": np.ones(1),
        "shape": (3,),
    }
    return Dataset(**{**fields, **changes})


def with_value(value: float) -> np.ndarray:
    x = np.zeros((4, 3), np.float32)
    x[2, 1] = x[3, 0] = value
    return x


def test_a_good_dataset_is_returned_itself():
    dataset = good()
    assert validate(dataset) is dataset
    assert dataset.features == 3
    assert dataset.classification
    with pytest.raises(dataclasses.FrozenInstanceError):
        dataset.name = "other"


def test_float_targets_make_it_a_regression():
    dataset = validate(good(train_y=np.zeros((4, 2)), test_y=np.zeros((2, 2)), outputs=2))
    assert not dataset.classification


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_x": np.zeros((0, 3), np.float32), "train_y": np.zeros(0, np.int64)}, "train split is empty"),
        ({"train_y": np.array([0, 1])}, "train_x has 4 samples but train_y has 2"),
        ({"test_y": np.array([0])}, "test_x has 2 samples but test_y has 1"),
        ({"train_x": with_value(np.nan)}, r"train_x .* 2 of 12 values, the first \(nan\) at row 2, column 1"),
        ({"train_x": with_value(-np.inf)}, r"the first \(-inf\) at row 2, column 1"),
        ({"test_x": np.full((2, 3), np.nan)}, "test_x holds NaN or infinity in 6 of 6"),
        ({"train_y": np.array([0, 1, 3, 1])}, r"label 3 at row 2; labels must be 0 \.\. 2 for 3 classes"),
        ({"train_y": np.array([0, 1, 2, -1])}, r"label -1 at row 3"),
        ({"test_y": np.array([7, 0])}, r"test_y has label 7 at row 0"),
        ({"train_y": np.array([0, 1, 2, 1], np.int32)}, "train_y is int32; class labels must be int64"),
        ({"test_x": np.zeros((2, 4), np.float32)}, "train_x has 3 features but test_x has 4"),
        ({"train_x": np.zeros((4, 3), np.int16)}, "train_x is int16; inputs must be uint8"),
        ({"train_x": np.zeros((4, 3), np.complex64)}, "train_x is complex64"),
        ({"train_x": np.zeros((4, 3, 1), np.float32)}, r"shape \(4, 3, 1\)"),
        ({"train_x": np.zeros((3, 4), np.float32).T}, "not C-contiguous"),
        ({"std": np.zeros(1)}, "std is 0.0 at column 0"),
        ({"mean": np.zeros(3), "std": np.array([1.0, -2.0, 1.0])}, "std is -2.0 at column 1"),
        ({"std": np.array([np.nan])}, "std holds NaN"),
        ({"mean": np.zeros(2), "std": np.ones(2)}, r"mean is float64 of shape \(2,\)"),
        ({"mean": np.zeros(3)}, r"mean has shape \(3,\) but std has \(1,\)"),
        ({"shape": (2, 2)}, r"sample shape \(2, 2\) holds 4 values but train_x has 3"),
        ({"test_y": np.zeros((2, 2))}, r"test_y is float64 of shape \(2, 2\) but train_y is int64 of shape \(4,\)"),
        ({"train_y": np.zeros((4, 2)), "test_y": np.zeros((2, 2))}, "targets for 3 outputs"),
        ({"train_y": with_value(np.nan), "test_y": np.zeros((2, 3))}, "train_y holds NaN"),
        (
            {"train_y": np.zeros((4, 3), np.int64), "test_y": np.zeros((2, 3))},
            r"train_y is int64 of shape \(4, 3\), but samples have shape \(3,\); class labels must",
        ),
        ({"train_y": np.zeros((4, 3, 1)), "test_y": np.zeros((2, 3, 1))}, r"shape \(4, 3, 1\)"),
    ],
)
def test_each_broken_rule_is_named_with_its_value(changes, message):
    with pytest.raises(DataError, match=message):
        validate(good(**changes))


def test_integer_inputs_are_not_scanned():
    x, y = np.zeros((60000, 784), np.uint8), np.zeros(60000, np.int64)
    dataset = good(train_x=x, train_y=y, test_x=x[:0], test_y=y[:0], shape=(784,))
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        validate(dataset)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.01  # labels alone take about 0.1 ms; isfinite of the 47 MB would take over 10


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("bool", "uint8"),
        ("uint8", "uint8"),
        ("int16", "float32"),
        ("int64", "float64"),
        ("float16", "float32"),
        (">f4", "float32"),
        (">f8", "float64"),
    ],
)
def test_inputs_become_the_narrowest_dtype_that_holds_them(given, used):
    x = np.array([[0, 1], [1, 0]]).astype(given)
    dataset = build_dataset(name="toy", train=(x, np.array([0, 1])))
    assert dataset.train_x.dtype == np.dtype(used)
    assert dataset.train_x.dtype.isnative
    np.testing.assert_array_equal(dataset.train_x, x)


def test_samples_are_flattened_and_their_shape_kept():
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    dataset = build_dataset(name="toy", train=(x, np.array([0, 1])), test=(x[:0], np.array([], np.int64)))
    assert dataset.shape == (3, 4)
    np.testing.assert_array_equal(dataset.train_x, x.reshape(2, 12))
    assert dataset.test_x.shape == (0, 12)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.array([0.0, 1.5]), "label 1.5 at row 1 is not an integer"),
        (np.array([0.0, 1.0]), "labels are float64; class labels must have an integer dtype"),
        (np.array([0.0, np.nan]), "label nan at row 1 is not an integer"),
        (np.array(["a", "b"]), "train_y is <U1"),
        (np.array([0, None]), "train_y is object"),
        (np.array([[0], [1]]), r"train_y is int64 of shape \(2, 1\), .*; .* reshape"),
        (np.array([0, 2**64 - 1], np.uint64), "label 18446744073709551615 at row 1"),
        (np.array([0, 10**12]), "would make 1000000000001 classes"),
        (np.array([0, -4]), "label -4 at row 1"),
    ],
)
def test_labels_that_are_no_labels_are_refused(y, message):
    with pytest.raises(DataError, match=message):
        build_dataset(name="toy", train=(np.eye(2), y))


@pytest.mark.parametrize("x", [np.array([["a"], ["b"]]), np.array([[None], [1]]), np.array([[1j], [1]])])
def test_inputs_that_are_no_real_numbers_are_refused(x):
    with pytest.raises(DataError, match="values must be bool, integers or floats"):
        build_dataset(name="toy", train=(x, np.array([0, 1])))


def test_constant_inputs_have_no_scale():
    with pytest.raises(DataError, match=r"std is 0.0 .* do not vary"):
        build_dataset(name="toy", train=(np.ones((3, 2)), np.array([0, 1, 0])))


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_measure_equals_numpy_in_float64(dtype):
    x = (np.random.default_rng(1).random((5000, 7)) * 200).astype(dtype)
    mean, std = measure_mean_and_std(x)
    exact = x.astype(np.float64)
    # Sums of 35000 positive terms in another order: relative error below n * eps, 8e-12.
    assert mean == pytest.approx(exact.mean(), rel=8e-12)
    assert std == pytest.approx(exact.std(), rel=8e-12)


def test_labels_that_begin_at_one_are_told_of(caplog):
    x = np.zeros((4, 2), np.float32)
    assert from_arrays((x, np.array([1, 2, 3, 2]))).outputs == 4
    assert "labels start at 1, so class 0 has no samples; subtract 1 from them" in caplog.text
