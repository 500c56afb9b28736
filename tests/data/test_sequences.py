"""Samples that are sequences: tokens in, a label for every position out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from distfa.data import Dataset, from_arrays, load, validate
from distfa.errors import DataError

X = np.array([[0, 1, 2, 3], [4, 5, 6, 0], [1, 1, 1, 1]])
Y = np.array([[1, 2, 3, 4], [5, 6, 0, 1], [2, 2, 2, 2]])


def tokens(x=X, y=Y, test=None, **options) -> Dataset:
    return from_arrays((x, y), test, **{"tokens": 7, **options})


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("uint8", "uint8"),
        ("int8", "int32"),
        ("int16", "int32"),
        ("uint16", "int32"),
        ("int32", "int32"),
        ("uint32", "int64"),
        ("int64", "int64"),
        ("uint64", "int64"),
        (">i4", "int32"),
    ],
)
def test_tokens_stay_the_integers_they_are(given, kept):
    found = tokens(X.astype(given))
    assert (found.train_x.dtype, found.train_x.dtype.isnative) == (np.dtype(kept), True)
    np.testing.assert_array_equal(found.train_x, X)
    assert (found.tokens, found.shape, found.mean.tolist(), found.std.tolist()) == (7, (4,), [0.0], [1.0])


def test_tokens_of_the_kept_types_are_not_copied():
    for dtype in (np.uint8, np.int32, np.int64):
        x = X.astype(dtype)
        assert np.shares_memory(tokens(x).train_x, x)


def test_without_a_vocabulary_integers_are_quantities():
    found = from_arrays((X, [0, 1, 2]))
    assert (found.tokens, found.train_x.dtype, found.positions) == (None, np.float64, 1)


def test_tokens_may_have_one_label_per_sample():
    found = tokens(y=[0, 1, 2])
    assert (found.outputs, found.positions, found.train_y.shape, found.classification) == (3, 1, (3,), True)


def test_every_position_may_have_a_label():
    found = tokens(y=Y.astype(np.uint8), test=(X[:1], Y[:1] + 2))
    np.testing.assert_array_equal(found.train_y, Y)
    assert (found.train_y.dtype, found.outputs, found.positions, found.classification) == (np.int64, 7, 4, True)
    assert tokens().test_y.shape == (0, 4)


def test_sequences_of_features_may_have_a_label_for_every_position():
    found = from_arrays((np.zeros((3, 4, 5)), Y))
    assert (found.tokens, found.shape, found.outputs, found.positions) == (None, (4, 5), 7, 4)


def test_labels_of_tensors_and_batches_are_read_alike():
    pairs = [(torch.tensor(X[i : i + 1]), torch.tensor(Y[i : i + 1])) for i in range(3)]
    for found in (tokens(torch.tensor(X), torch.tensor(Y)), from_arrays(iter(pairs), tokens=np.int64(7))):
        np.testing.assert_array_equal(found.train_x, X)
        np.testing.assert_array_equal(found.train_y, Y)


@pytest.mark.parametrize("x", [np.zeros((3, 6)), np.zeros((3, 1, 8, 8)), np.zeros((3, 4)), np.zeros((3, 5, 4))])
@pytest.mark.parametrize("y", [Y, np.eye(3, dtype=np.int64), np.ones((3, 2), bool), Y[:, :1]])
def test_a_row_of_integers_is_refused_where_it_could_mean_something_else(x, y):
    with pytest.raises(DataError, match=r"train_y is .* of T > 1 positions: tokens .* argmax\(1\) for one-hot rows"):
        from_arrays((x, y))


def test_one_hot_rows_are_seen_even_where_labels_per_position_would_fit():
    one_hot = np.eye(4, dtype=np.int64)[:3]
    with pytest.raises(DataError, match=r"a single 1 in every row: for one-hot rows use argmax\(1\); .*outputs=2"):
        tokens(y=one_hot)
    with pytest.raises(DataError, match=r"argmax\(1\)"):
        from_arrays((np.zeros((3, 4, 5)), one_hot.astype(bool)))
    assert tokens(y=one_hot, outputs=2).positions == 4
    assert tokens(y=1 - one_hot).outputs == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": X + 0.5}, r"train_x is float64; tokens must be integers 0 \.\. 6: convert"),
        ({"x": X > 0}, "train_x is bool; tokens must be integers"),
        ({"tokens": 6}, r"train_x has token 6 at row 1, column 2; tokens must be 0 \.\. 5 for a vocabulary of 6"),
        ({"x": X - 1}, "token -1 at row 0, column 0"),
        ({"x": np.where(X == 6, 2**64 - 1, X.astype(np.uint64))}, "token 18446744073709551615 at row 1, column 2"),
        ({"test": (X + 4, Y)}, "test_x has token 7 at row 0, column 3"),
        ({"tokens": 0}, "tokens is 0; it is the size of the vocabulary"),
        ({"tokens": 6.5}, r"tokens is 6\.5; it is the size of the vocabulary and must be an integer"),
        ({"y": Y[:, :3]}, r"train_y is int64 of shape \(3, 3\), but samples have shape \(4,\)"),
        ({"y": Y[:, :1]}, r"reshape\(-1\) for one label per row"),
        ({"y": Y[..., None]}, r"of shape \(3, 4, 1\), but samples"),
        ({"y": Y - 1}, "train_y has label -1 at row 1, column 2"),
        ({"outputs": 6}, r"train_y has label 6 at row 1, column 1; labels must be 0 \.\. 5"),
        ({"y": np.where(Y == 6, 2**64 - 1, Y.astype(np.uint64))}, "label 18446744073709551615 at row 1"),
        ({"test": (X, [0, 1, 2])}, r"test_y is int64 of shape \(3,\) but train_y is int64 of shape \(3, 4\)"),
        ({"test": (X, Y.astype(float))}, "test_y is float64 .* both must be labels, or both"),
        ({"test": (X.reshape(3, 2, 2), Y)}, r"train_x has samples of shape \(4,\) but test_x of \(2, 2\)"),
    ],
)
def test_what_breaks_a_rule_is_named_with_its_place(changes, message):
    with pytest.raises(DataError, match=message):
        tokens(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_x": X.astype(np.int16)}, "train_x is int16; tokens must be uint8, int32 or int64"),
        ({"tokens": None}, "train_x is int64; inputs must be .* or give tokens="),
        ({"tokens": 3}, "token 3 at row 0, column 3"),
        ({"mean": np.ones(1)}, "tokens are used as they are, so mean must be 0 and std 1"),
        ({"std": np.full(1, 2.0)}, "mean must be 0 and std 1"),
        ({"train_y": Y.astype(np.int32)}, "train_y is int32; class labels must be int64"),
        ({"shape": (2, 2)}, r"samples have shape \(2, 2\); class labels"),
    ],
)
def test_a_dataset_made_by_hand_meets_the_same_rules(changes, message):
    with pytest.raises(DataError, match=message):
        validate(dataclasses.replace(tokens(), **changes))


def test_samples_of_equal_size_and_another_shape_are_refused():
    with pytest.raises(DataError, match=r"train_x has samples of shape \(2, 3\) but test_x of \(3, 2\)"):
        from_arrays((np.zeros((4, 2, 3)), [0, 1, 0, 1]), (np.zeros((4, 3, 2)), [0, 1, 0, 1]))


def test_limit_keeps_tokens_as_they_are():
    whole, first = load("stdlib"), load("stdlib", limit=5)
    np.testing.assert_array_equal(first.train_y, whole.train_y[:5])
    assert (first.tokens, first.positions, first.source) == (whole.tokens, 64, whole.source)
