"""Seeded matrices: independent streams, the promised scale, the same at every end."""

import pytest
import torch
from runs import recipe

from distfa.core.base.draw import DISTRIBUTIONS, Purpose, initial_weight, matrix
from distfa.core.layer import Layer


def draw(rows, columns, distribution="normal", seed=3, purpose=Purpose.WEIGHT, index=1):
    return matrix(rows, columns, seed=seed, purpose=purpose, index=index, distribution=distribution)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("shape", [(60, 200), (200, 60), (80, 80), (1, 5), (5, 1)])
def test_rows_have_a_mean_square_norm_of_one(distribution, shape):
    w = draw(*shape, distribution)
    assert w.shape == shape
    assert w.is_contiguous()
    if distribution == "orthogonal":
        assert w.square().sum().item() == pytest.approx(shape[0], rel=1e-12)
    elif min(shape) > 5:
        # a mean over >= 6400 elements: six standard deviations of its sampling error
        assert w.square().sum().item() / shape[0] == pytest.approx(1.0, abs=0.12)


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (9, 9)])
def test_orthogonal_is_orthogonal_on_its_shorter_side(shape):
    w = draw(*shape, "orthogonal")
    gram = w @ w.t() if shape[0] <= shape[1] else (w.t() @ w) * shape[1] / shape[0]
    assert torch.allclose(gram, torch.eye(min(shape), dtype=torch.float64), atol=1e-13)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_streams_differ_by_seed_purpose_and_index_and_repeat_otherwise(distribution):
    base = draw(7, 5, distribution)
    assert torch.equal(base, draw(7, 5, distribution))
    assert not torch.equal(base, draw(7, 5, distribution, seed=4))
    assert not torch.equal(base, draw(7, 5, distribution, purpose=Purpose.FEEDBACK))
    assert not torch.equal(base, draw(7, 5, distribution, index=2))


def test_the_largest_seed_of_a_spec_draws():
    assert draw(2, 2, seed=2**63 - 1).isfinite().all()


def test_float32_layers_start_on_the_float64_numbers_rounded():
    drawn = initial_weight(recipe(), 2)
    narrow, wide = (Layer(recipe(dtype=dtype), 2).weight for dtype in (torch.float32, torch.float64))
    assert not torch.equal(drawn.float().double(), drawn)  # there is something to round
    assert torch.equal(wide, drawn)
    assert (narrow.dtype, wide.dtype) == (torch.float32, torch.float64)
    assert torch.equal(narrow, drawn.float())
