"""Faults that are injected on purpose: at planned steps, what happens to layers of a real cluster sooner or later."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Fault(Enum):
    """A fault that can be caused in a layer.

    Attributes:
        KILL: Its process ends at once (SIGKILL), as when a machine is switched off.
        HANG: Its process stops and does not answer (SIGSTOP).
        CUT: All its streams break, as when a link goes down; the process lives.
        MEMORY: Its process takes memory until it is ended for that: by Ray, above RAY_memory_usage_threshold (0.95) of
            the node's memory, or by the system.
    """

    KILL = "kill"
    HANG = "hang"
    CUT = "cut"
    MEMORY = "memory"


@dataclass(frozen=True, kw_only=True)
class PlannedFault:
    """One fault.

    Attributes:
        fault: What happens.
        layer: In which layer.
        step: It happens once this many steps are reported, counted from the start of the run and not again after a
            recovery.
        seconds: It does not happen before this many seconds of training.
    """

    fault: Fault
    layer: int
    step: int = 1
    seconds: float = 0.0


def plan_faults(
    count: int, *, kinds: Sequence[Fault], layers: int, steps: int, seed: int, every_seconds: float = 0.0
) -> list[PlannedFault]:
    """Plan faults: drawn from a seed and spread evenly over the run.

    Args:
        count: How many.
        kinds: Which kinds.
        layers: How many layers the network has.
        steps: How many steps the run has.
        seed: Seed for the kinds, the layers, and the place of each fault within its share of the run.
        every_seconds: Seconds between faults, to spread them by time instead of by steps.
    """
    draw, share = random.Random(seed), steps / (count + 1)

    def when(number: int) -> dict[str, Any]:
        if every_seconds:
            return {"seconds": every_seconds * number}
        return {"step": max(1, round(share * (number + draw.uniform(-0.3, 0.3))))}

    return [
        PlannedFault(fault=draw.choice(kinds), layer=draw.randint(1, layers), **when(number))
        for number in range(1, count + 1)
    ]
