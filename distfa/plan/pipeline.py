"""For comparison: backpropagation with torch's own pipelines, 1F1B or GPipe, one stage per layer.

Nodes, lines and optimizer are the same; messages are plain numbers. A stage's backward is that of autograd: the
gradient of its input leaves only when the gradient of its weights is done too. Every step is flushed.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from distfa.core import rules
from distfa.core.base.recipe import FeedbackConfig
from distfa.costs import counted
from distfa.costs.arithmetic import Effort
from distfa.costs.counted import LayerWork
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
    stages = []
    for layer, work in enumerate(counted.works(recipe, setting.modules), start=1):
        stages.append(
            build.build_stage(setting, recipe, layer, work, learn=partial(_backward, work), after=None, gpipe=gpipe)
        )
    channels = []
    for boundary in recipe.network.boundaries:
        sizes = tuple(n * recipe.network.sizes[boundary] * recipe.signal_dtype.itemsize for n in setting.rows)
        own = build.carry_seconds(_OWN, sizes)
        for ends in ((boundary, boundary + 1), (boundary + 1, boundary)):
            channels.append(
                Channel(
                    sender=ends[0],
                    receiver=ends[1],
                    up=ends[0] == boundary,
                    sizes=sizes,
                    send=own,
                    receive=own,
                    carry=build.carry_seconds(_CARRY, sizes),
                    limit=2 * len(setting.rows),  # all messages of a step: a send does not wait for its receiver
                )
            )
    return stages, channels


def _backward(work: LayerWork, n: int) -> Effort:
    """The whole backward of a stage under the baseline rule, and the operations that autograd adds."""
    down = [work.emit(boundary, n) for boundary in work.sends_to]
    return sum(down, work.teach(n) + work.accumulate(n)) + Effort(calls=2)
