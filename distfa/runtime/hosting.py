"""Which layers each worker hosts, as ``ray.workers`` says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from distfa.core.base.recipe import Recipe
from distfa.costs.balance import balance_layers
from distfa.errors import SpecError
from distfa.runtime.job import Workers
from distfa.runtime.placement import ClusterConfig, Node


def assign_layers(
    config: ClusterConfig, recipe: Recipe, modules: Mapping[int, nn.Module], nodes: Sequence[Node], device: str
) -> Workers:
    """The layers of every worker.

    Args:
        config: Has ``workers``.
        recipe: The run's.
        modules: The modules of a network that is not drawn from the seed, by layer.
        nodes: The nodes of the cluster, for ``auto``.
        device: ``cpu``, ``cuda`` or ``auto``.

    Raises:
        SpecError: There are more workers than layers, or the lists do not name every layer once and in order.
    """
    layers, wanted = len(recipe.network), config.workers
    if wanted is None:
        return tuple((layer,) for layer in range(1, layers + 1))
    if not isinstance(wanted, int | str):
        return _require_all(wanted, layers)
    if wanted == "auto":
        gpus = 0 if device == "cpu" else sum(int(node.total.get("GPU", 0)) for node in nodes)
        wanted = max(1, min(layers, gpus or sum(int(node.total.get("CPU", 0)) for node in nodes)))
    if int(wanted) > layers:
        raise SpecError(
            f"ray.workers is {wanted}, but the network has {layers} layers, and a worker hosts at least one; "
            f"set it to at most {layers}"
        )
    return balance_layers(recipe, modules, int(wanted))


def _require_all(lists: Sequence[Sequence[int]], layers: int) -> Workers:
    named = [layer for part in lists for layer in part]
    if not all(lists) or named != list(range(1, layers + 1)):
        raise SpecError(
            f"ray.workers is {[list(part) for part in lists]}, but it must name every layer, 1 to {layers}, once and "
            "in order, with at least one layer a worker; a number of workers alone lets distfa choose the layers"
        )
    return tuple(tuple(part) for part in lists)
