"""What a layer holds, in bytes, by closed forms."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from distfa.core.ledger import ends
from distfa.core.rules.base import Rule
from distfa.plan import effort
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


def layer_memory(
    job: Job, rule: Rule, layer: int, *, in_flight: int, links: tuple[Link, ...], base: int
) -> LayerMemory:
    """Of one layer.

    Args:
        job: The run.
        rule: Its rule.
        layer: l.
        in_flight: Micro-batches it keeps at most.
        links: Of the run's training signals.
        base: Of its process before it holds anything.
    """
    recipe, size, signal_size = job.recipe, job.recipe.dtype.itemsize, job.recipe.signal_dtype.itemsize
    shape, n = recipe.network[layer], -(-recipe.batch_size // recipe.micro_batches)
    learned, own = effort.learned(recipe, rule, layer), effort.parameters(recipe, layer)
    signals = shape.inputs + shape.outputs * (1 if shape.activation.name == "identity" else 2)
    if learned:
        signals += rule.width(layer)
    ends = [
        job.codec(link.direction).max_payload_bytes(n, link.columns, recipe.signal_dtype)
        for link in links
        if layer in (link.sender, link.receiver)
    ]
    return LayerMemory(
        weights=own * size + (own + learned) * (signal_size if recipe.mixed else 0),
        gradients=(own + learned) * size,
        optimizer=effort.state_numbers(recipe.optimizer) * (own + learned) * size,
        feedback=_feedback(job, rule, layer) * signal_size,
        ledger=_ledger(job, rule, layer) * 8,
        kept=in_flight * n * signals * signal_size,
        window=job.wire.window * sum(ends),
        process=base,
    )


def _feedback(job: Job, rule: Rule, layer: int) -> int:
    """Numbers in the feedback matrices of a layer: those it emits with, and the one it learns with."""
    network = job.recipe.network
    numbers = 0
    for boundary in network.boundaries:
        if rule.origin(boundary) == layer and rule.name != "bp" and effort.at_origin(rule, boundary):
            numbers += network.sizes[layer] * rule.width(boundary)
    if layer < len(network) and effort.at_learner(rule, layer):
        columns = network.sizes[-1] if rule.reads_labels else rule.width(layer)
        numbers += columns * network.sizes[layer]
    return numbers


def _ledger(job: Job, rule: Rule, layer: int) -> int:
    """Numbers in the fixed matrix of the boundary below, where the books of this layer need it."""
    recipe, sizes = job.recipe, job.recipe.network.sizes
    if (
        layer == 1
        or not recipe.ledger_every
        or rule.name == "bp"
        or (layer, "upper") not in ends(recipe, rule, layer - 1)
    ):
        return 0
    return sizes[layer] * sizes[layer - 1]
