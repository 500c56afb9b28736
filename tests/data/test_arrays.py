from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from distfa.data import from_arrays
from distfa.errors import DataError

X = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
Y = np.array([0, 2, 1, 2])


def assert_is_example(found):
    np.testing.assert_array_equal(found.train_x, X.reshape(4, 6))
    np.testing.assert_array_equal(found.train_y, Y)
    assert (found.outputs, found.shape, found.train_x.dtype) == (3, (2, 3), np.float32)
    assert (found.mean.tolist(), found.std.tolist()) == ([0.0], [1.0])


def loader(batch_size, **options):
    return DataLoader(TensorDataset(torch.tensor(X), torch.tensor(Y)), batch_size=batch_size, **options)


@pytest.mark.parametrize(
    "train",
    [
        (X, Y),
        [X, Y],
        (torch.tensor(X), torch.tensor(Y)),
        (torch.tensor(X, requires_grad=True), Y.tolist()),
        (X, Y.astype(np.int32)),
        (list(torch.tensor(X)), [torch.tensor(y) for y in Y]),
        loader(3),
        list(loader(3)),
        list(loader(2)),  # two batches: still batches, not a pair
        tuple(loader(2)),
        list(loader(4)),
        [(X[:2], Y[:2]), (X[2:], Y[2:])],
        ((X[i : i + 1], Y[i : i + 1]) for i in range(4)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_pairs_and_batches_give_the_same_dataset(train):
    assert_is_example(from_arrays(train))


def test_nested_lists_are_a_pair():
    found = from_arrays(([[1, 2], [3, 4]], [0, 1]))
    assert found.train_x.tolist() == [[1, 2], [3, 4]]
    assert found.train_y.tolist() == [0, 1]


def test_two_samples_of_two_features_are_a_pair():
    found = from_arrays((np.eye(2), np.array([0, 1])))
    assert found.train_x.shape == (2, 2)


def test_no_test_split_is_zero_samples():
    found = from_arrays((X, Y))
    assert (found.test_x.shape, found.test_y.shape) == ((0, 6), (0,))
    assert from_arrays((X, np.zeros((4, 5)))).test_y.shape == (0, 5)


def test_outputs_count_the_labels_of_both_splits():
    assert from_arrays((X, Y), (X[:1], [7])).outputs == 8
    assert from_arrays((X, Y), (X[:1], [1]), outputs=5).outputs == 5
    assert from_arrays((X, np.zeros((4, 5)))).outputs == 5


def test_arrays_in_the_final_form_are_not_copied():
    flat = np.zeros((4, 6), np.float32)
    assert np.shares_memory(from_arrays((flat, Y)).train_x, flat)


def test_narrow_floats_are_widened_exactly():
    x = torch.tensor([[0.5, 3.0], [1.25, -2.0]], dtype=torch.bfloat16)
    found = from_arrays((x, [0, 1]), name="mine")
    assert (found.train_x.tolist(), found.train_x.dtype, found.name) == (x.tolist(), np.float32, "mine")


def test_one_number_per_sample_is_one_feature():
    assert from_arrays((np.arange(4.0), Y)).shape == (1,)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ((X, Y[:3]), "train_x has 4 samples but train_y has 3"),
        (7, "a int is neither a pair"),
        (X, "a ndarray alone has no targets"),
        (torch.tensor(X), "a Tensor alone has no targets"),
        ({"x": X}, "a dict alone has no targets"),
        (iter([]), "the iterable has no batches"),
        (TensorDataset(torch.tensor(X), torch.tensor(Y)), r"batch 0 has .* y of shape \(\); .*DataLoader"),
        ([(X, Y, Y)] * 3, "batch 0 is a tuple of 3"),
        ([{"x": X}] * 3, "batch 0 is a dict of 1"),
        ([(X, Y), (X, Y), (X, Y[:1])], "batch 2 has 4 samples in x and 1 in y"),
        ([(X, Y), (X[:, :1], Y), (X, Y)], r"batch 1 has samples of shape \(1, 3\) but batch 0 has \(2, 3\)"),
        (([[1, 2], [3]], [0, 1]), "train_x cannot become one array"),
        ((5, [1]), "train_x is the single value 5"),
        ((X, ["a", "b", "c", "d"]), "train_y is <U1"),
        ((torch.eye(4).to_sparse(), Y), "has no numpy form"),
        ((X * np.nan, Y), "train_x holds NaN"),
        ((X[:0], Y[:0]), "train split is empty"),
        ((X[:, :0], Y), "at least one feature"),
    ],
)
def test_what_cannot_be_used_is_named(train, message):
    with pytest.raises(DataError, match=message):
        from_arrays(train)


def test_a_generator_read_twice_is_explained():
    batches = ((X, Y) for _ in range(1))
    from_arrays(batches)
    with pytest.raises(DataError, match="generator that has already been read is empty"):
        from_arrays(batches)
