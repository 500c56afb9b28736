"""Fewer cases that still try every value of one thing with every value of every other."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations, product
from typing import Any

import pytest
import torch

from distfa.core.base.optim import OptimizerConfig


def pairs(*axes: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Cases in which any two values of two different axes meet at least once.

    The whole product of five axes of four values has 1024 cases; this list has some twenty. Equal axes give equal
    lists. Two axes give their whole product.
    """
    values = [list(axis) for axis in axes]
    missing = {
        ((a, i), (b, j))
        for a, b in combinations(range(len(values)), 2)
        for i, j in product(range(len(values[a])), range(len(values[b])))
    }
    cases = []
    while missing:
        chosen = dict(min(missing))
        for axis in range(len(values)):
            if axis not in chosen:
                new = [sum(_pair(chosen, axis, i, a) in missing for a in chosen) for i in range(len(values[axis]))]
                # Where no choice helps more, take turns, so that other axes do not always meet the first value.
                turn = len(cases) % len(new)
                chosen[axis] = max(range(len(new)), key=lambda i: (new[i], i == turn))
        missing -= {tuple(sorted(pair)) for pair in combinations(chosen.items(), 2)}
        cases.append(tuple(values[axis][chosen[axis]] for axis in range(len(values))))
    return cases


def _pair(chosen: dict[int, int], axis: int, i: int, other: int) -> tuple[tuple[int, int], ...]:
    return tuple(sorted([(axis, i), (other, chosen[other])]))


def pairwise(**axes: Iterable[Any]) -> pytest.MarkDecorator:
    """``parametrize`` over ``pairs``; every name is an argument of the test."""
    return pytest.mark.parametrize(tuple(axes), pairs(*axes.values()), ids=label)


def in_turn(**axes: Iterable[Any]) -> pytest.MarkDecorator:
    """``parametrize`` over the whole product; by default each value comes up in turn, and the other cases are slow.

    The longest axis is gone through once, and the shorter ones meanwhile again and again, all at the same pace: values
    that are to meet in every way belong in one axis.
    """
    values = [list(axis) for axis in axes.values()]
    turns = {tuple(turn % len(axis) for axis in values) for turn in range(max(map(len, values)))}
    cases = [
        pytest.param(
            *(axis[i] for axis, i in zip(values, case, strict=True)), marks=() if case in turns else pytest.mark.slow
        )
        for case in product(*(range(len(axis)) for axis in values))
    ]
    return pytest.mark.parametrize(tuple(axes), cases, ids=label)


def label(value: Any) -> str | None:
    """What a case is called; None leaves it to pytest."""
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, OptimizerConfig):
        return f"{value.name}-{value.momentum}"
    return "-".join(str(label(part) or part) for part in value) if isinstance(value, tuple) else None
