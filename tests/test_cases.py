"""Pairwise lists leave out no pair, and most of the product."""

from itertools import combinations, product

import pytest
from cases import in_turn, pairs
from hypothesis import given, settings
from hypothesis import strategies as st


def met(cases):
    return {(a, b, case[a], case[b]) for case in cases for a, b in combinations(range(len(case)), 2)}


@settings(deadline=None)
@given(st.lists(st.integers(1, 6).map(range), min_size=2, max_size=5))
def test_every_pair_of_values_meets(axes):
    cases = pairs(*axes)
    assert met(cases) == met(product(*axes))
    assert len(set(cases)) == len(cases) <= len(list(product(*axes)))
    assert pairs(*axes) == cases


@pytest.mark.parametrize(("sizes", "most"), [((6, 2, 7, 4), 46), ((8, 3, 2), 24), ((4, 4, 4, 4, 4), 26), ((3, 5), 15)])
def test_a_list_is_not_much_longer_than_the_product_of_its_two_longest_axes(sizes, most):
    assert len(pairs(*map(range, sizes))) <= most


def test_values_may_be_anything():
    assert pairs([{}, []], [None]) == [({}, None), ([], None)]


@settings(deadline=None)
@given(st.lists(st.integers(1, 6).map(range), min_size=1, max_size=3))
def test_every_value_has_its_turn_and_the_rest_of_the_product_is_slow(axes):
    cases = in_turn(**{f"axis{number}": axis for number, axis in enumerate(axes)}).args[1]
    assert [case.values for case in cases] == list(product(*axes))
    quick = [case.values for case in cases if not case.marks]
    assert len(quick) == max(map(len, axes))
    assert [set(values) for values in zip(*quick, strict=True)] == [set(axis) for axis in axes]
