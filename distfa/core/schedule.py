"""The order in which a layer works through the micro-batches of a run.

A layer makes some forwards ahead, then backward and forward alternate (1F1B). Three layers, four
micro-batches, time to the right:

    sync: the pipe runs empty at the end of every step, and all signals of a step come from the same weights

    layer 3          F0 B0 F1 B1 F2 B2 F3 B3
    layer 2       F0 F1    B0 F2 B1 F3 B2    B3
    layer 1    F0 F1 F2       B0 F3 B1    B2    B3

    async: the forwards of the next step (F4 ...) go on while the errors of this one are in transit

    layer 3          F0 B0 F1 B1 F2 B2 F3 B3 F4 B4 F5 B5 ...
    layer 2       F0 F1    B0 F2 B1 F3 B2 F4 B3 F5 B4 F6 ...
    layer 1    F0 F1 F2       B0 F3 B1 F4 B2 F5 B3 F6 B4 ...

Under ``async`` the backward of a micro-batch comes a fixed number of micro-batches after its forward, the
layer's *delay*, so the first ``delay`` forwards of a step see the weights of the step before. Nothing
depends on how fast messages travel: a run is deterministic. No weight versions are kept.

Source: Narayanan et al., "PipeDream", SOSP 2019, for 1F1B; its asynchronous form without weight stashing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from distfa.core import rules
from distfa.core.base.order import Batch
from distfa.core.base.recipe import Recipe


class Forward(NamedTuple):
    """Run the forward of a micro-batch."""

    batch: Batch
    micro_batch: int


class Begin(NamedTuple):
    """All updates of earlier steps have been made, and the backwards of this step begin."""

    batch: Batch


class Backward(NamedTuple):
    """Run the backward of a micro-batch, which accumulates its gradient."""

    batch: Batch
    micro_batch: int


class Update(NamedTuple):
    """Make the step's update."""

    batch: Batch


class Evaluate(NamedTuple):
    """Pass the test set up the layers."""

    batch: Batch


class Keep(NamedTuple):
    """Keep all state: no micro-batch is in transit."""

    batch: Batch


Operation = Forward | Begin | Backward | Update | Evaluate | Keep


def delay(recipe: Recipe, layer: int) -> int:
    """By how many micro-batches the backwards of ``layer`` come after their forwards, beyond its step's own.

    0 under ``sync``. Under ``async`` as many as an error takes to come back in a pipe without gaps. The rule knows this
    number (``Rule.delay``): one for each layer above if errors go hop by hop, fewer if they do not.
    It is always less than the number of micro-batches in a step, since longer delays cost accuracy (theory.md, aligned
    initialisation): with one micro-batch ``async`` is ``sync``.
    """
    if recipe.schedule == "sync":
        return 0
    return min(rules.build_rule(recipe).delay(layer), _most_delay(recipe))


def renewal_lag(recipe: Recipe) -> int:
    """Steps from a probe to the renewal that it may call for: before any layer begins that step, all have reported.

    Under ``async`` lower layers make an update up to a step later than the output layer does.
    """
    return 1 if recipe.schedule == "sync" else 2


def flows(recipe: Recipe) -> bool:
    """Whether the pipe fills under ``async``.

    Where errors pass through other layers on their way down, each must be later than the one it comes from. If
    ``delay`` had to be cut to the same number for two such layers, every micro-batch would wait for a round trip
    between them.
    """
    rule = rules.build_rule(recipe)
    return recipe.schedule == "sync" or rule.is_straight or rule.delay(1) <= _most_delay(recipe)


def _most_delay(recipe: Recipe) -> int:
    return min(recipe.micro_batches, recipe.batch_size) - 1


def forwards_ahead(recipe: Recipe, layer: int, workers: Sequence[Sequence[int]] | None = None) -> int:
    """How many forwards ``layer`` may go ahead of its backwards: what fills the pipe, or its delay.

    Args:
        recipe: The run's.
        layer: Counted from 1.
        workers: The layers of every worker, from the lowest up; None: one each. Under ``sync`` the pipe is as long as
            there are workers: with fewer, fewer forwards are held, and no bit changes.
    """
    if recipe.schedule != "sync":
        return delay(recipe, layer)
    return len(recipe.network) - layer if workers is None else sum(layers[0] > layer for layers in workers)


def operations(batches: Iterable[Batch], ahead: int, *, replica: int = 0, replicas: int = 1) -> Iterator[Operation]:
    """All that a layer does in a run, in order.

    Backwards come in micro-batch order, so gradients add up in the same order everywhere.

    Args:
        batches: The steps of the run.
        ahead: How many forwards the layer goes ahead.
        replica: Which replica of the layer, counted from 0: it takes every ``replicas``-th micro-batch, makes every
            update, and the first one evaluates for all.
        replicas: How many there are.
    """
    waiting: deque[tuple[Batch, int]] = deque()
    for batch in batches:
        for m in range(len(batch.parts)):
            if m % replicas == replica:
                yield Forward(batch, m)
            waiting.append((batch, m))
            if len(waiting) > ahead:
                yield from _backward(*waiting.popleft(), replica, replicas)
        while batch.drains and waiting:
            yield from _backward(*waiting.popleft(), replica, replicas)
        if not batch.parts:  # no sample was drawn, and yet the step makes its update
            yield Begin(batch)
            yield Update(batch)
        if batch.evaluate and replica == 0:
            yield Evaluate(batch)
        if batch.cut:
            yield Keep(batch)


def _backward(batch: Batch, micro_batch: int, replica: int, replicas: int) -> Iterator[Operation]:
    if micro_batch == 0:
        yield Begin(batch)
    if micro_batch % replicas == replica:
        yield Backward(batch, micro_batch)
    if micro_batch == len(batch.parts) - 1:
        yield Update(batch)
