"""For comparison: backpropagation by torch's own pipelines, 1F1B or GPipe, one stage per layer.

Same nodes, same lines, same optimizer; messages are plain numbers. A stage's backward is autograd's: the
gradient of its input leaves after that of its weights is done too. Every step is flushed.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from distfa.bench import arithmetic
from distfa.bench.arithmetic import Effort, Product
from distfa.core import rules
from distfa.plan import layer_schedule
from distfa.plan.build import Setting, carried
from distfa.plan.calibration import MessageCost
from distfa.plan.queues import Wires
from distfa.plan.stages import Channel, Stage

_OWN = MessageCost(seconds=50e-6, seconds_per_byte=0.0)
_CARRY = MessageCost(seconds=60e-6, seconds_per_byte=0.48e-9)  # gloo: a MiB takes about 1 ms at both ends together


def build(setting: Setting, wires: Wires, *, gpipe: bool) -> tuple[list[Stage], list[Channel]]:
    """The stages and channels of a pipeline."""
    recipe = replace(setting.job.recipe, rule=rules.BASELINE, rank=None, schedule="sync", check_finite=False)
    rule, rows, last = rules.build(recipe), setting.rows, len(recipe.network)

    def backward(layer: int, n: int) -> Effort:
        shape = recipe.network[layer]
        down = (Product(n, shape.outputs, shape.inputs, "down"),) if layer > 1 else ()
        return (
            arithmetic.teach(recipe, rule, layer, n)
            + arithmetic.accumulate(recipe, rule, layer, n)
            + Effort(products=down, calls=4)
        )

    stages = [
        Stage(
            node=setting.nodes[l - 1],
            operations=partial(layer_schedule.operations, recipe, l, gpipe=gpipe),
            forward=setting.timed(l, partial(arithmetic.forward, recipe, l)),
            learn=setting.timed(l, partial(backward, l)),
            after=(0.0,) * len(rows),
            update=setting.speed(l).seconds(arithmetic.update(recipe, rule, l)),
        )
        for l in range(1, last + 1)
    ]
    channels = []
    for boundary in recipe.network.boundaries:
        sizes = tuple(n * recipe.network.sizes[boundary] * recipe.signal_dtype.itemsize for n in rows)
        own = carried(_OWN, sizes)
        for ends in ((boundary, boundary + 1), (boundary + 1, boundary)):
            channels.append(
                Channel(
                    sender=ends[0],
                    receiver=ends[1],
                    up=ends[0] == boundary,
                    sizes=sizes,
                    send=own,
                    receive=own,
                    carry=carried(_CARRY, sizes),
                    limit=2 * len(rows),  # a step's messages: a send does not wait for its receiver
                )
            )
    return stages, channels
