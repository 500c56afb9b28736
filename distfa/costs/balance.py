"""Neighbours in parts of nearly equal cost: modules in a layer, layers in a worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from distfa.core.base.recipe import Recipe
from distfa.costs.counted import LayerWork, works


def balance(costs: Sequence[int], parts: int) -> tuple[int, ...]:
    """How many neighbours each part has, such that the heaviest part is as light as it can be.

    The lightest limit is searched for under which parts that are filled one after the other are few enough.

    Args:
        costs: One for each neighbour.
        parts: At most as many as there are neighbours; each gets at least one.
    """
    low, high = max(costs), sum(costs)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(_fill(costs, middle, 1)) <= parts else (middle + 1, high)
    return tuple(_fill(costs, low, parts))


def balance_layers(recipe: Recipe, modules: Mapping[int, nn.Module], workers: int) -> tuple[tuple[int, ...], ...]:
    """The layers of every worker, balanced by their counted products, from the lowest up."""
    layers, found, first = len(recipe.network), [], 1
    if workers in (1, layers):  # there is one way, and counting takes a second
        return (tuple(range(1, layers + 1)),) if workers == 1 else tuple((layer,) for layer in range(1, layers + 1))
    for size in balance([_flops(work, recipe) for work in works(recipe, modules)], workers):
        found.append(tuple(range(first, first + size)))
        first += size
    return tuple(found)


def _fill(costs: Sequence[int], limit: int, parts: int) -> list[int]:
    """Sizes of parts of at most ``limit`` each, filled from the first on, and of at least so many parts."""
    sizes, held = [0], 0
    for place, cost in enumerate(costs):
        short = parts - len(sizes) >= len(costs) - place  # every neighbour that is left must begin a part
        if sizes[-1] and (held + cost > limit or short):
            sizes.append(0)
            held = 0
        sizes[-1] += 1
        held += cost
    return sizes


def _flops(work: LayerWork, recipe: Recipe) -> int:
    n = -(-recipe.batch_size // recipe.micro_batches)
    efforts = [work.forward(n), work.teach(n), work.accumulate(n), *(work.emit(b, n) for b in work.sends_to)]
    return sum(effort.flops for effort in efforts)
