"""Values written as nested tuples come back as they were, through bytes too, and into the objects that had them."""

import random
from collections import OrderedDict, deque
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distfa.core.modules.frozen import freeze, is_same, pack_values, portable, thaw, unpack_values

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.complex_numbers()
    | st.lists(st.floats(width=32), max_size=3).map(torch.tensor)
    | st.lists(st.integers(0, 99), max_size=3).map(np.array)
)
KEYS = st.text() | st.integers() | st.tuples(st.integers(), st.text())
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(KEYS, inner), max_leaves=8
)


@given(VALUES)
def test_a_value_comes_back_through_bytes(value):
    frozen = freeze(value, depth=50)
    again = unpack_values(pack_values({"it": portable(frozen, None, "it")}))["it"]
    assert is_same(frozen, again)
    assert is_same(frozen, freeze(thaw(again), depth=50))


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor(float("nan")),
        torch.arange(6.0).view(3, 2).t(),
        torch.ones(2, dtype=torch.complex128),
        torch.zeros(0, 3, dtype=torch.bfloat16),
        torch.tensor([True]),
        torch.float32,
        torch.device("cpu"),
        torch.Size((2, 3)),
        np.float32(2.5),
        np.array(["text", "more"]),
        np.zeros((0, 2)),
        {1, 2, 3},
        frozenset({"a"}),
        deque([1, 2], maxlen=3),
        OrderedDict(b=1, a=2),
    ],
    ids=lambda value: f"{type(value).__name__} {value!r}"[:30],
)
def test_every_kind_of_value_comes_back_in_another_process_and_in_place(value):
    frozen = freeze(value)
    content = pack_values({"it": frozen})
    assert torch.equal(content, pack_values({"it": freeze(value)}))
    assert is_same(frozen, freeze(thaw(unpack_values(content)["it"], value)))


@pytest.mark.parametrize(
    ("make", "draw"),
    [
        (lambda: torch.Generator().manual_seed(1), lambda g: torch.rand(2, generator=g).tolist()),
        (lambda: np.random.default_rng(1), lambda g: g.random(2).tolist()),
        (lambda: np.random.RandomState(1), lambda g: g.rand(2).tolist()),
        (lambda: random.Random(1), lambda g: [g.random(), g.gauss(0, 1)]),
    ],
    ids=["torch", "numpy", "numpy's old one", "python"],
)
def test_a_generator_goes_on_where_it_was(make, draw):
    generator = make()
    draw(generator)
    content = pack_values({"it": freeze(generator)})
    expected = draw(generator)
    other = make()
    assert thaw(unpack_values(content)["it"], other) is other
    assert draw(other) == expected


def test_objects_that_others_hold_are_filled():
    inner, tensor = [1, 2], torch.zeros(2)
    holder = SimpleNamespace(inner=inner, tensor=tensor, more={"x": inner})
    frozen = freeze(holder)
    inner.append(3)
    tensor.add_(1)
    holder.new = 5
    assert not is_same(frozen, freeze(holder))
    thaw(frozen, holder)
    assert inner == [1, 2]
    assert holder.inner is inner
    assert torch.equal(holder.tensor, torch.zeros(2))
    assert not hasattr(holder, "new")


def test_a_reference_may_stay_but_not_change():
    value = {"f": print, "n": 1}
    was = freeze(value)
    value["n"] = 2
    now = portable(freeze(value), was, "it")
    assert thaw(unpack_values(pack_values({"it": now}))["it"], {"f": print, "n": 1}) == {"f": print, "n": 2}
    with pytest.raises(TypeError, match=r"'it\.f' is a builtin_function_or_method"):
        portable(freeze({"f": len, "n": 1}), was, "it")


def test_numbers_are_compared_to_the_last_bit():
    assert not is_same(freeze(torch.tensor(0.0)), freeze(torch.tensor(-0.0)))
    assert not is_same(freeze(1), freeze(True))
    assert not is_same(freeze(torch.ones(2)), freeze(torch.ones(2, dtype=torch.float64)))
    assert is_same(freeze(float("nan")), freeze(float("nan")))
