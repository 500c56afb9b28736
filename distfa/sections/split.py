"""A model becomes layers: an ``nn.Sequential`` by its modules, any other model where its forward can be cut."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from distfa.core.base.model import Network
from distfa.core.base.seeding import Seeding
from distfa.core.modules.admit import admit, is_sequential, require_module
from distfa.core.modules.attributes import restore_afterwards
from distfa.core.modules.split import children, describe_layers, group, sample_shape
from distfa.costs.balance import balance
from distfa.costs.counted import count_work
from distfa.errors import ModelError
from distfa.sections.checks import require_equal
from distfa.sections.division import Division
from distfa.sections.operations import count_operations
from distfa.sections.traced import ALL, Layers, batches_of, divide_traced, require_order


def split(
    model: nn.Module, sample: Sequence[int] | None = None, *, layers: Layers = ALL, tokens: bool = False
) -> Network:
    """Split a model into the layers distfa runs, one actor each; ``print`` it as a table.

    Args:
        model: An ``nn.Sequential``, or any module whose forward torch.fx can trace.
        sample: Shape of one sample, such as (3, 32, 32); may be left out for a Sequential that begins with a Linear.
        layers: ``all`` that there can be; a number: adjacent ones are put together at nearly equal cost; or the names
            of the modules that begin a layer.
        tokens: Whether inputs are integer tokens, for an Embedding.

    Raises:
        ModelError: It cannot be trained as it is; the message names the module and the way out.
    """
    return divide(model, sample, layers=layers, tokens=tokens)[0]


def divide(
    model: nn.Module, sample: Sequence[int] | None, *, layers: Layers = ALL, tokens: bool = False, head: bool = False
) -> tuple[Network, Division]:
    """The layers of a model, and how they are laid over it; as ``split``, and ``head`` as for ``group``."""
    require_module(model)
    if is_sequential(model) and _by_modules(model, layers):
        return _divide_sequential(model, sample, layers, tokens=tokens, head=head)
    if sample is None:
        raise ModelError(
            f"a {type(model).__name__} does not say which shape a sample has; pass it: distfa.split(model, (3, 32, 32))"
        )
    admit(model)
    batches = batches_of(model, tuple(sample), tokens=tokens)
    division = divide_traced(model, batches, layers, head=head)
    parts = division.parts(model)
    _require_parameters(parts)
    admit(model, parts)
    network = describe_layers(parts, tuple(sample), tokens=tokens)
    require_equal(model, division, batches[1])
    return _with_costs(network, [plan.cost for plan in division.plans]), division


def _by_modules(model: nn.Module, layers: Layers) -> bool:
    """Whether the layers of a Sequential lie between its own modules."""
    if isinstance(layers, int):
        return layers <= len(group(model))
    return isinstance(layers, str) or {*layers} <= {name for name, _ in children(model)}


def _divide_sequential(
    model: nn.Module, sample: Sequence[int] | None, layers: Layers, *, tokens: bool, head: bool
) -> tuple[Network, Division]:
    """By its modules: those with parameters begin layers."""
    usual = Division.usual(model, head=head)
    finest = usual.parts(model)
    admit(model, finest)
    shape = sample_shape(finest[0], sample)
    network = describe_layers(finest, shape, tokens=tokens)
    if layers == ALL:
        return network, usual
    if isinstance(layers, int):
        sizes = balance([_cost(part, network, number) for number, part in enumerate(finest, start=1)], layers)
        named = [network[number].modules[0][0] for number in itertools.accumulate((1, *sizes[:-1]))]
    else:
        named = [*layers]
    names = [name for name, _ in children(model)]
    places = [names.index(name) for name in named]
    require_order(places, named)
    starts = [0, *places[1:], len(names)]
    division = Division(modules=tuple(last - first for first, last in itertools.pairwise(starts)))
    parts = division.parts(model)
    _require_parameters(parts)
    network = describe_layers(parts, shape, tokens=tokens)
    return _with_costs(network, [_cost(part, network, number) for number, part in enumerate(parts, start=1)]), division


def _require_parameters(parts: Sequence[nn.Module]) -> None:
    for number, part in enumerate(parts, start=1):
        if next(part.parameters(), None) is None:
            raise ModelError(f"layer {number} would have no parameters; begin a layer at a module that has some")


def _cost(part: nn.Module, network: Network, number: int) -> int:
    """Counted operations of a layer's forward for one sample."""
    shape, first = network.shapes[number - 1], next(part.parameters())
    rows = 2
    x = torch.zeros(rows, *shape, dtype=torch.int64 if network.tokens and number == 1 else first.dtype)
    with restore_afterwards(part), torch.no_grad(), Seeding(part).drawing_from(0):
        return count_operations(count_work(lambda: part(x))[1]) // rows


def _with_costs(network: Network, costs: Sequence[int]) -> Network:
    return replace(
        network,
        layers=tuple(replace(layer, cost=cost) for layer, cost in zip(network.layers, costs, strict=True)),
    )
