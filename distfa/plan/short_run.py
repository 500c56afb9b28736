"""A short real run on this machine, on Ray, to compare a plan with and to fit a calibration to."""

from __future__ import annotations

import math
from typing import NamedTuple

from distfa.core.base.model import Network
from distfa.measuring import ray_run
from distfa.plan.setup import Planned
from distfa.settings import RunSpec, amend

_WARM_UP_SECONDS = 1.0
_LEAST_WARM_UP_STEPS = 5
_BATCHES = 8
_RATE = 1e-6  # a learning rate for samples from which nothing can be learned


class ShortRun(NamedTuple):
    """The time of a run without what a plan leaves out: ledger, probes, evaluation.

    Attributes:
        step_seconds: Mean time of a step; the first steps, which warm up, are left out of everything.
        core_seconds: Processor time of all layers' processes per step; 0 if they are not on this machine or the run
            took less than a second.
    """

    step_seconds: float
    core_seconds: float


def run_briefly(spec: RunSpec, planned: Planned, network: Network, *, steps: int, expected_seconds: float) -> ShortRun:
    """Train for some steps without ledger, probes and evaluation.

    Args:
        spec: The run; an asynchronous run is asynchronous from its first step.
        planned: Gives the samples.
        network: The network, in the depth to run.
        steps: How many steps to time.
        expected_seconds: About how long a step takes, to decide how many steps warm up.

    Raises:
        DistfaError: The run failed.
    """
    warmup = max(_LEAST_WARM_UP_STEPS, math.ceil(_WARM_UP_SECONDS / expected_seconds))
    total = steps + 2 * warmup
    off = {"sync_epochs": 0, "ledger.every": 0, "probe.every": 0, "optimizer.lr": _RATE}
    bare = amend(spec, {"max_steps": total, "epochs": total, **off})
    found = ray_run.run_on_ray(bare, planned.task(bare, network, _BATCHES), warmup=warmup)
    return ShortRun(found.step_seconds, found.cpu_seconds * len(network))
