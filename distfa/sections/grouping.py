"""Adjacent parts in groups of nearly equal cost."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import accumulate


def balance(costs: Sequence[int], groups: int) -> tuple[int, ...]:
    """How many parts each group has, such that the heaviest group is as light as it can be.

        best(n, g) = min over k of max(best(k, g - 1), cost of parts k..n)

    Args:
        costs: Of the parts, in order.
        groups: At most as many as there are parts.
    """
    before = (0, *accumulate(costs))

    @cache
    def best(parts: int, groups: int) -> tuple[int, tuple[int, ...]]:
        if groups == 1:
            return before[parts], (parts,)
        found = []
        for below in range(groups - 1, parts):
            heaviest, sizes = best(below, groups - 1)
            found.append((max(heaviest, before[parts] - before[below]), (*sizes, parts - below)))
        return min(found)

    return best(len(costs), groups)[1]
