"""Products: their factors, the time they take, and the least time of a step that is made of them."""

import pytest
import torch

from distfa.bench.matrix_rate import bound, time_each
from distfa.costs.arithmetic import Product


@pytest.mark.parametrize("kind", ["forward", "gradient", "down"])
def test_factors_have_the_products_shape_whatever_their_place_in_memory(kind):
    left, right = Product(3, 4, 5, kind).factors(torch.float32)
    assert (left.shape, right.shape) == ((3, 4), (4, 5))
    assert (left.is_contiguous(), right.is_contiguous()) == (kind != "gradient", kind != "forward")


def test_the_bound_spreads_layers_over_cores_but_never_splits_one():
    a, b = Product(1, 1, 1, "forward"), Product(1, 1, 1, "gradient")
    seconds = {a: 1.0, b: 3.0}
    assert bound([[a], [a], [a, a]], seconds, cores=2) == 2.0
    assert bound([[a], [a], [b]], seconds, cores=2) == 3.0


def test_timing_tells_large_products_from_small_ones():
    small, large = Product(8, 8, 8), Product(128, 512, 512)
    of_small, of_large = time_each([small, large], dtype=torch.float32, seconds=0.1)
    assert 0 < of_small < of_large
