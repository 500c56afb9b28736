"""The memory of a layer, in bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from distfa.codecs import Codec
from distfa.core import schedule
from distfa.core.base.recipe import Recipe
from distfa.core.routes import Direction, Link, links
from distfa.costs.arithmetic import state_numbers
from distfa.costs.counted import LayerWork

_EVERY_STEP = (Direction.UP, Direction.DOWN)


@dataclass(frozen=True, kw_only=True)
class LayerMemory:
    """Bytes of memory at one layer.

    Attributes:
        weights: W and b.
        gradients: Their gradients, and that of a feedback matrix that is learned.
        optimizer: Its state.
        feedback: Feedback matrices at this end.
        ledger: The feedback matrix that the books keep in float64.
        kept: What the backwards of micro-batches in flight need from their forwards.
        window: Messages that may wait at this layer's ends of its links.
        process: Python, torch, Ray and gRPC.
    """

    weights: int
    gradients: int
    optimizer: int
    feedback: int
    ledger: int
    kept: int
    window: int
    process: int

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return sum(asdict(self).values())


def memory_by_layer(
    recipe: Recipe,
    works: Sequence[LayerWork],
    *,
    codec: Callable[[Direction], Codec],
    window: int,
    base: int,
    workers: Sequence[Sequence[int]] | None = None,
) -> tuple[LayerMemory, ...]:
    """The memory of every layer of a run, layer 1 first.

    Args:
        recipe: The run's.
        works: The work of its layers, layer 1 first.
        codec: Gives the codec of a direction.
        window: How many messages may wait at each end of a link.
        base: Memory of a worker's process before it holds anything; counted at its lowest layer.
        workers: The layers of every worker; None: one each. Signals inside a worker take no room of their own.
    """
    hosted = workers or [(layer,) for layer in range(1, len(works) + 1)]
    home = {layer: layers[0] for layers in hosted for layer in layers}
    n = -(-recipe.batch_size // recipe.micro_batches)
    waiting = Counter[int]()
    for link in training_links(recipe):
        if home[link.sender] == home[link.receiver]:
            continue
        size = codec(link.direction).max_payload_bytes(n, link.columns, recipe.signal_dtype)
        waiting.update({link.sender: size, link.receiver: size})
    return tuple(
        _memory(
            recipe,
            work,
            kept=in_flight(recipe, layer, hosted) * work.kept(n),
            window=window * waiting[layer],
            base=base if home[layer] == layer else 0,
        )
        for layer, work in enumerate(works, start=1)
    )


def _memory(recipe: Recipe, work: LayerWork, *, kept: int, window: int, base: int) -> LayerMemory:
    size, signal_size = recipe.dtype.itemsize, recipe.signal_dtype.itemsize
    updated = work.trained + work.learned
    return LayerMemory(
        weights=work.parameters * size + (work.parameters + work.learned) * (signal_size if recipe.mixed else 0),
        gradients=updated * size,
        optimizer=state_numbers(recipe.optimizer) * updated * size,
        feedback=work.feedback * signal_size,
        ledger=work.books * 8 if recipe.ledger.every else 0,
        kept=kept,
        window=window,
        process=base,
    )


def in_flight(recipe: Recipe, layer: int, workers: Sequence[Sequence[int]] | None = None) -> int:
    """The most micro-batches that a layer keeps at once, from forward to backward."""
    return min(schedule.forwards_ahead(recipe, layer, workers) + 1, recipe.micro_batches, recipe.batch_size)


def training_links(recipe: Recipe) -> tuple[Link, ...]:
    """The links of a run that carry signals in every step."""
    return tuple(link for link in links(recipe.without_books()) if link.direction in _EVERY_STEP)
