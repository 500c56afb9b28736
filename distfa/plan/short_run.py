"""A short real run on this machine, on Ray: what a plan is compared with, and what a calibration is fitted to."""

from __future__ import annotations

import math
from typing import NamedTuple

from distfa.bench import ray_run
from distfa.core.model import Network
from distfa.experiment.spec import RunSpec, parse
from distfa.plan.setup import Planned

_WARM_UP_SECONDS = 1.0
_LEAST_WARM_UP_STEPS = 5
_BATCHES = 8
_RATE = 1e-6  # of learning, where there is nothing to learn


class ShortRun(NamedTuple):
    """What a run came to, without what a plan leaves out: ledger, probes, evaluation.

    Attributes:
        step_seconds: Of the clock, the mean over its steps; some to warm up are left out of everything.
        core_seconds: Of processor time of all layers' processes, per step; 0 where they are not on this machine, or the
            run took less than a second.
    """

    step_seconds: float
    core_seconds: float


def run(spec: RunSpec, planned: Planned, network: Network, *, steps: int, expected_seconds: float) -> ShortRun:
    """Train for some steps, ledger, probes and evaluation left out.

    Args:
        spec: The run; an asynchronous one is so from its first step.
        planned: Gives the samples.
        network: As deep as it is to be.
        steps: To be timed.
        expected_seconds: Of a step, about: so it is known how many steps warm up.

    Raises:
        DistfaError: The run failed.
    """
    warmup = max(_LEAST_WARM_UP_STEPS, math.ceil(_WARM_UP_SECONDS / expected_seconds))
    total = steps + 2 * warmup
    raw = spec.model_dump(mode="json")
    raw |= {"max_steps": total, "epochs": total, "sync_epochs": 0}
    raw |= {"ledger": {"every": 0}, "probe": {"every": 0}, "optimizer": raw["optimizer"] | {"lr": _RATE}}
    bare = parse(raw)
    found = ray_run.run(bare, planned.task(bare, network, _BATCHES), warmup=warmup)
    return ShortRun(found.step_seconds, found.cpu_seconds * len(network))
