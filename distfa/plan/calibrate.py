"""Makes a calibration that agrees with a short real run.

Parts that are timed one by one take less time than a run of them: threads take turns, caches are cold, Ray has its own
threads, and a thread that wakes up while all cores are taken gets one late. Two numbers correct this: a factor on all
processor time, and the time that a message waits for a core.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from distfa.errors import PlanError
from distfa.measuring.machine import cores
from distfa.plan import cluster as clusters
from distfa.plan import measure, short_run
from distfa.plan.background import layers_at_once
from distfa.plan.build import Setting
from distfa.plan.calibration import Calibration
from distfa.plan.predict import forecast
from distfa.plan.setup import Planned
from distfa.plan.short_run import ShortRun
from distfa.plan.simulate import SimulatedStep
from distfa.runtime.placement import ClusterConfig

_SECONDS = 8.0
_LEAST_STEPS = 10
_WAITS = tuple(n / 10_000 for n in range(40))


def calibrate(
    planned: Planned, layers: int | None, machine: dict[str, object], *, say: Callable[[str], None] = lambda line: None
) -> Calibration:
    """Measure this machine's processors for a run: its parts, then the run itself; about a minute.

    Args:
        planned: The run; its placement and devices are ignored. Of a deep multi-layer perceptron this machine runs the
            first layers and the last one, two per core.
        layers: As for ``Planned.job``.
        machine: What the machine is, for the file.
        say: Called with what is about to run and about how long it takes.

    Raises:
        DistfaError: The run failed.
    """
    spec = planned.spec.model_copy(update={"ray": ClusterConfig(), "device": "cpu"})
    job = planned.job(layers)
    say("1 of 2: each part on its own, about half a minute")
    parts = measure.parts(job, planned.modules, machine)
    some = job if planned.modules else planned.job(layers_at_once(len(job.recipe.network)))
    network, here = some.recipe.network, clusters.parse_cluster({"nodes": {"cores": cores()}})
    setting = Setting(job=some, cluster=here, nodes=(0,) * len(network), calibration=parts, modules=planned.modules)
    expected = forecast(setting).step_seconds
    steps = max(_LEAST_STEPS, math.ceil(_SECONDS / expected))
    say(f"2 of 2: a run of {steps:,} steps on Ray, about {steps * expected:.0f} s plus the time to start and warm up")
    return agree(setting, short_run.run_briefly(spec, planned, network, steps=steps, expected_seconds=expected))


def agree(setting: Setting, found: ShortRun) -> Calibration:
    """The setting's calibration, changed so that its plan agrees with what was measured.

    The factor follows from processor time, the wait from step time. A run that leaves cores free does not depend on the
    wait; of all waits that fit equally well (to 1 %) it is the shortest.

    Args:
        setting: The run that was made, on the machine where it was made.
        found: What was measured.

    Raises:
        PlanError: The run's processor time is not known.
    """
    if not found.core_seconds:
        raise PlanError(
            "the processor time of the layers' processes cannot be read on this system, so calibration is not possible"
        )
    parts = setting.calibration
    factor = found.core_seconds / _steady(setting, parts).core_seconds
    slowed = parts.slow_down(factor)

    def off(wait: float) -> float:
        step = _steady(setting, replace(slowed, wake_seconds=wait)).step_seconds
        return round(abs(step / found.step_seconds - 1.0), 2)

    wait = min(_WAITS, key=lambda wait: (off(wait), wait))
    return replace(slowed, wake_seconds=wait, run_factor=factor)


def _steady(setting: Setting, calibration: Calibration) -> SimulatedStep:
    return forecast(replace(setting, calibration=calibration)).steady
