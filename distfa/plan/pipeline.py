"""For comparison: backpropagation by torch's own pipelines, 1F1B or GPipe, one stage per layer.

Same nodes, same lines, same optimizer; messages are plain numbers. A stage's backward is autograd's: the
gradient of its input leaves after that of its weights is done too. Every step is flushed.
"""

from __future__ import annotations

from dataclasses import replace

from distfa.bench import arithmetic
from distfa.bench.arithmetic import Effort, Product
from distfa.core import rules
from distfa.core.recipe import FeedbackConfig, Recipe
from distfa.core.rules.base import Rule
from distfa.plan import build
from distfa.plan.build import Setting
from distfa.plan.calibration import MessageCost
from distfa.plan.queues import Wires
from distfa.plan.stages import Channel, Stage

_OWN = MessageCost(seconds=50e-6, seconds_per_byte=0.0)
_CARRY = MessageCost(seconds=60e-6, seconds_per_byte=0.48e-9)  # gloo: a MiB takes about 1 ms at both ends together


def stages_and_channels(setting: Setting, wires: Wires, *, gpipe: bool) -> tuple[list[Stage], list[Channel]]:
    """The stages and channels of a pipeline."""
    recipe = replace(
        setting.job.recipe, rule=rules.BASELINE, feedback=FeedbackConfig(), schedule="sync", check_finite=False
    )
    rule, rows = rules.build(recipe), setting.rows
    layers = range(1, len(recipe.network) + 1)
    stages = [build.stage(setting, rule, l, learn=_backward, after=None, gpipe=gpipe) for l in layers]
    channels = []
    for boundary in recipe.network.boundaries:
        sizes = tuple(n * recipe.network.sizes[boundary] * recipe.signal_dtype.itemsize for n in rows)
        own = build.carried(_OWN, sizes)
        for ends in ((boundary, boundary + 1), (boundary + 1, boundary)):
            channels.append(
                Channel(
                    sender=ends[0],
                    receiver=ends[1],
                    up=ends[0] == boundary,
                    sizes=sizes,
                    send=own,
                    receive=own,
                    carry=build.carried(_CARRY, sizes),
                    limit=2 * len(rows),  # a step's messages: a send does not wait for its receiver
                )
            )
    return stages, channels


def _backward(recipe: Recipe, rule: Rule, layer: int, n: int) -> Effort:
    """All of a stage's backward, by the baseline rule."""
    shape = recipe.network[layer]
    down = (Product(n, shape.outputs, shape.inputs, "down"),) if layer > 1 else ()
    learned = arithmetic.teach(recipe, rule, layer, n) + arithmetic.accumulate(recipe, rule, layer, n)
    return learned + Effort(products=down, calls=4)
