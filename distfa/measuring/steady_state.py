"""The steady state of a run: rate and CPU time from the end of its warm-up to its last step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from distfa.measuring.machine import Load


@dataclass(frozen=True, kw_only=True)
class SteadyState:
    """The figures of one process, or of a group of processes, in its steady state.

    Attributes:
        samples_per_second: Samples per second of wall time.
        cpu_seconds: CPU time of the group's own processes, per 1000 samples.
        busy: Share of the time of all cores in which the machine was busy, 0 to 1.
        others: Share of the time of all cores that other processes took, 0 to 1.
    """

    samples_per_second: float
    cpu_seconds: float
    busy: float
    others: float


def of(samples: int, seconds: float, own_cpu_seconds: float, load: Load) -> SteadyState:
    """The steady state from what was measured.

    Args:
        samples: How many samples were trained on in ``seconds``.
        seconds: Wall time.
        own_cpu_seconds: CPU time of the group's processes while ``load`` was measured.
        load: The load of the machine.
    """
    rate = samples / seconds
    share_of_others = max(0.0, load.cpu_seconds - own_cpu_seconds) / load.cpu_seconds if load.cpu_seconds else 0.0
    return SteadyState(
        samples_per_second=rate,
        cpu_seconds=1000 * own_cpu_seconds / load.seconds / rate,
        busy=load.busy,
        others=load.busy * share_of_others,
    )


def measure_steady_state(steps: Iterator[int], *, warmup: int) -> SteadyState:
    """Iterate a run to its end, and measure it in this process from step ``warmup`` on.

    Args:
        steps: Yields the rows of every step when the step is done.
        warmup: Steps before the measurement begins, at least 1.
    """
    for _ in range(warmup):
        next(steps)
    with Load() as load:
        began = time.process_time()
        samples = sum(steps)
        own = time.process_time() - began
    return of(samples, load.seconds, own, load)
