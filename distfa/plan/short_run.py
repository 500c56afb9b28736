"""A short real run on this machine, on Ray: what a plan is held against, and what a calibration is fitted to."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from distfa.bench import random_data, ray_run
from distfa.bench.task import Task
from distfa.core.model import Network
from distfa.experiment.spec import RunSpec, parse
from distfa.runtime.job import RawInputs, RawTargets

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


def run(spec: RunSpec, network: Network, *, steps: int, expected_seconds: float) -> ShortRun:
    """Train on random samples of the right shape.

    Args:
        spec: The run; an asynchronous one is so from its first step.
        network: Its network.
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
    found = ray_run.run(bare, _task(bare, network), warmup=warmup)
    return ShortRun(found.step_seconds, found.cpu_seconds * len(network))


def _task(spec: RunSpec, network: Network) -> Task:
    recipe, outputs = spec.recipe(network), network.sizes[-1]
    rows = recipe.batch_size * _BATCHES
    inputs, labels = random_data.samples(rows=rows, features=network.sizes[0], classes=outputs, seed=0)
    targets = labels if recipe.loss == "cross_entropy" else np.eye(outputs, dtype=np.float32)[labels]
    return Task(
        recipe=recipe,
        inputs=RawInputs(train=inputs, test=inputs[:0], mean=np.array([127.5]), std=np.array([73.6])),
        targets=RawTargets(train=targets, test=targets[:0]),
    )
