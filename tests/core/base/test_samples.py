"""Readers: what a micro-batch is made of."""

import numpy as np
import pytest
import torch

from distfa.core.base.samples import Inputs, Targets

ROWS = np.array([4, 0, 4])
RAW = np.arange(5 * 12).reshape(5, 12)


def inputs(raw=RAW, mean=0.0, std=1.0, dtype=torch.float64, **options):
    return Inputs(raw, mean=np.atleast_1d(mean), std=np.atleast_1d(std), dtype=dtype, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shaped_samples_are_the_flat_ones_to_the_last_bit(dtype):
    raw, mean, std = RAW.astype(np.uint8), np.linspace(1, 3, 12), np.linspace(2, 5, 12)
    flat = inputs(raw, mean, std, dtype).read(ROWS)
    shaped = inputs(raw, mean, std, dtype, shape=(3, 2, 2)).read(ROWS)
    assert (flat.shape, shaped.shape, shaped.dtype) == ((3, 12), (3, 3, 2, 2), dtype)
    assert torch.equal(flat.view(3, 3, 2, 2), shaped)
    np.testing.assert_allclose(flat, (raw[ROWS] - mean) / std, rtol=1e-6)


@pytest.mark.parametrize("kept", [np.uint8, np.int32, np.int64])
def test_tokens_are_read_as_they_are(kept):
    read = inputs(RAW.astype(kept), dtype=torch.bfloat16, shape=(12,), tokens=True).read(ROWS)
    assert (read.dtype, read.shape) == (torch.int64, (3, 12))
    np.testing.assert_array_equal(read, RAW[ROWS])


def test_what_is_read_is_no_view_of_the_data():
    raw = RAW.copy()
    inputs(raw, tokens=True).read(ROWS).zero_()
    inputs(raw.astype(np.float64)).read(ROWS).zero_()
    np.testing.assert_array_equal(raw, RAW)


def test_labels_of_either_shape_are_indices_and_floats_are_targets():
    assert Targets(RAW[:, 0], dtype=torch.float32).read(ROWS).tolist() == [48, 0, 48]
    sequences = Targets(RAW, dtype=torch.float32).read(ROWS)
    assert (sequences.dtype, sequences.shape) == (torch.int64, (3, 12))
    assert Targets(RAW.astype(np.float64), dtype=torch.float32).read(ROWS).dtype == torch.float32
