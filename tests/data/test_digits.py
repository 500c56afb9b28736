from __future__ import annotations

import sys

import numpy as np
import pytest

from distfa.data import load
from distfa.errors import DataError


def test_digits_have_the_documented_form():
    digits = load("digits")
    assert digits.train_x.shape == (1437, 64)
    assert digits.test_x.shape == (360, 64)
    assert digits.train_x.dtype == np.uint8
    assert (digits.train_x.min(), digits.train_x.max()) == (0, 16)
    assert (digits.outputs, digits.shape, digits.classification) == (10, (1, 8, 8), True)
    assert digits.mean[0] == pytest.approx(digits.train_x.mean(dtype=np.float64))


def test_the_split_is_stratified_and_loses_no_sample():
    from sklearn.datasets import load_digits

    digits = load("digits")
    share = np.bincount(digits.test_y) / (np.bincount(digits.train_y) + np.bincount(digits.test_y))
    assert np.abs(share - 0.2).max() < 0.01  # one sample of about 180 is 0.006
    x, y = load_digits(return_X_y=True)
    ours = np.concatenate([np.c_[digits.train_x, digits.train_y], np.c_[digits.test_x, digits.test_y]])
    theirs = np.c_[x, y].astype(np.int64)
    assert sorted(map(bytes, ours.astype(np.uint8))) == sorted(map(bytes, theirs.astype(np.uint8)))


def test_digits_are_the_same_each_time():
    first, second = load("digits"), load("digits")
    np.testing.assert_array_equal(first.train_x, second.train_x)
    np.testing.assert_array_equal(first.test_y, second.test_y)


def test_without_scikit_learn_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(DataError, match="pip install scikit-learn"):
        load("digits")
