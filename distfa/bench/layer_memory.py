"""What a layer holds, in bytes, by closed forms."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace

from distfa.bench import arithmetic
from distfa.core import rules, schedule
from distfa.core.ledger import ends
from distfa.core.recipe import Recipe
from distfa.core.routes import links
from distfa.core.rules.base import Rule
from distfa.core.rules.cost import Cost
from distfa.runtime.job import Job
from distfa.transport.message import Link


@dataclass(frozen=True, kw_only=True)
class LayerMemory:
    """Bytes at one layer.

    Attributes:
        weights: W and b.
        gradients: Of them, and of a feedback matrix that is learned.
        optimizer: Its state.
        feedback: Feedback matrices at this end.
        ledger: The feedback matrix the books keep in float64.
        kept: What the backwards of the micro-batches in flight need of their forwards.
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
        """All of it."""
        return sum(asdict(self).values())


def memory_by_layer(job: Job, *, base: int) -> tuple[LayerMemory, ...]:
    """Of every layer of a run, layer 1 first.

    Args:
        job: The run.
        base: Of a layer's process before it holds anything.
    """
    recipe, rule = job.recipe, rules.build(job.recipe)
    n = -(-recipe.batch_size // recipe.micro_batches)
    waiting = Counter[int]()
    for link in training_links(recipe):
        size = job.codec(link.direction).max_payload_bytes(n, link.columns, recipe.signal_dtype)
        waiting.update({link.sender: size, link.receiver: size})
    layers = range(1, len(recipe.network) + 1)
    return tuple(_memory(job, rule, layer, n=n, waiting_bytes=waiting[layer], base=base) for layer in layers)


def _memory(job: Job, rule: Rule, layer: int, *, n: int, waiting_bytes: int, base: int) -> LayerMemory:
    recipe, size, signal_size = job.recipe, job.recipe.dtype.itemsize, job.recipe.signal_dtype.itemsize
    shape = recipe.network[layer]
    above = rule.cost(layer) if layer < len(recipe.network) else Cost()
    learned, own = above.learned, arithmetic.parameters(recipe, layer)
    signals = shape.inputs + shape.outputs * (1 if shape.activation.name == "identity" else 2)
    if learned:
        signals += rule.width(layer)
    return LayerMemory(
        weights=own * size + (own + learned) * (signal_size if recipe.mixed else 0),
        gradients=(own + learned) * size,
        optimizer=arithmetic.state_numbers(recipe.optimizer) * (own + learned) * size,
        feedback=(above.learner_keeps + sum(rule.cost(b).origin_keeps for b in rule.sent_by.get(layer, ())))
        * signal_size,
        ledger=_ledger(recipe, rule, layer) * 8,
        kept=in_flight(recipe, layer) * n * signals * signal_size,
        window=job.wire.window * waiting_bytes,
        process=base,
    )


def in_flight(recipe: Recipe, layer: int) -> int:
    """Micro-batches a layer keeps at most, from forward to backward."""
    return min(schedule.ahead(recipe, layer) + 1, recipe.micro_batches, recipe.batch_size)


def training_links(recipe: Recipe) -> tuple[Link, ...]:
    """The links of a run, without those of probes."""
    return links(replace(recipe, probe_every=0))


def _ledger(recipe: Recipe, rule: Rule, layer: int) -> int:
    """Numbers in the fixed matrix of the boundary below, where the books of this layer need it."""
    if layer == 1 or not recipe.ledger_every or (layer, "upper") not in ends(recipe, rule, layer - 1):
        return 0
    return rule.cost(layer - 1).books_keep
