"""Neighbours in parts of nearly equal cost."""

from itertools import accumulate, combinations, pairwise

from hypothesis import given
from hypothesis import strategies as st
from runs import recipe

from distfa.costs.balance import balance, balance_layers


def heaviest(costs, sizes):
    ends = (0, *accumulate(sizes))
    return max(sum(costs[a:b]) for a, b in pairwise(ends))


@given(st.lists(st.integers(0, 50), min_size=1, max_size=9), st.data())
def test_no_other_cut_has_a_lighter_heaviest_part(costs, data):
    parts = data.draw(st.integers(1, len(costs)))
    sizes = balance(costs, parts)
    assert len(sizes) == parts
    assert sum(sizes) == len(costs)
    assert min(sizes) > 0
    every = ((0, *ends, len(costs)) for ends in combinations(range(1, len(costs)), parts - 1))
    least = min(max(sum(costs[a:b]) for a, b in pairwise(ends)) for ends in every)
    assert heaviest(costs, sizes) == least


def test_layers_weigh_what_their_products_cost():
    wide, narrow = [64] * 4, [8] * 12
    r = recipe((8, *wide, *narrow, 3), rule="dfa")
    assert balance_layers(r, {}, 2) == ((1, 2, 3), tuple(range(4, 18)))  # 8,704 terms and 5,336; 9,432 from layer 3 on
    assert balance_layers(r, {}, 1) == (tuple(range(1, 18)),)
    assert balance_layers(r, {}, 17) == tuple((layer,) for layer in range(1, 18))


def test_a_thousand_neighbours_take_no_time():
    assert heaviest(range(1000), balance(range(1000), 100)) < 1.2 * sum(range(1000)) / 100
