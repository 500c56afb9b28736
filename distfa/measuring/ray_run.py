"""Measures distfa itself: a run of layer actors on Ray, in its steady state.

The coordinator gets reports of steps in bursts, and processes are measured when it does. So a run continues for a while
after the last step that counts: otherwise its last burst would include idle time.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from statistics import median

from distfa.core.base.order import count_steps
from distfa.core.books.records import StepRecord
from distfa.measuring import steady_state
from distfa.measuring.machine import Load, cpu_between, snapshot
from distfa.measuring.steady_state import SteadyState
from distfa.measuring.task import Task
from distfa.run.engines import RayEngine
from distfa.runtime.job import ResumeState
from distfa.runtime.worker import LayerStatus
from distfa.settings import RunSpec

Layers = Mapping[int, LayerStatus]


@dataclass(frozen=True, kw_only=True)
class LayersRun:
    """The measurements of a run of layer actors.

    Attributes:
        steady: The steady state of all its processes: those of the layers, of Ray and of the coordinator.
        step_seconds: Time of a step in the steady state.
        payload_bytes: Bytes of numbers in training messages, per step, over all boundaries.
        message_bytes: Bytes of whole training messages, per step.
        messages: Number of training messages per step.
        busy_seconds: Time per step in which a layer did not wait for a message, mean over the layers.
        cpu_seconds: CPU time per step of a layer's process, mean over the layers.
        rss_bytes: Memory of a layer's process at the end, median over the layers.
    """

    steady: SteadyState
    step_seconds: float
    payload_bytes: float
    message_bytes: float
    messages: float
    busy_seconds: float
    cpu_seconds: float
    rss_bytes: int


def run_on_ray(spec: RunSpec, task: Task, *, warmup: int) -> LayersRun:
    """Train a spec on Ray; the test set is left out.

    Args:
        spec: The run, with more than twice ``warmup`` steps and batches of equal size.
        task: The spec's data and network.
        warmup: How many steps at the beginning do not count, and as many at the end; at least 1.

    Raises:
        DistfaError: The run failed.
    """
    task = task.without_test()
    rows, total = len(task.inputs.train), count_steps(task.recipe, len(task.inputs.train))
    job = spec.job(task.recipe.network, run_id=uuid.uuid4().hex, train_rows=rows, test_rows=0)
    with closing(RayEngine(spec, task.inputs, task.targets, task.modules)) as engine:
        engine.start(job, ResumeState())
        records = (record for record in engine.records(lambda: None) if isinstance(record, StepRecord))
        first = next(islice(records, warmup - 1, None))
        with Load() as load:
            before, layers_before = snapshot(), dict(engine.coordinator.status)
            last = next(islice(records, total - 2 * warmup - 1, None))
            after, layers_after = snapshot(), dict(engine.coordinator.status)
        for _ in records:
            pass
        traffic = [counted for (_, kind), counted in engine.coordinator.traffic().items() if kind.is_training]
    done, seconds = last.step - first.step, last.seconds - first.seconds
    step_seconds = seconds / done
    layers = len(task.recipe.network)
    return LayersRun(
        steady=steady_state.of(done * task.recipe.batch_size, seconds, cpu_between(before, after), load),
        step_seconds=step_seconds,
        payload_bytes=sum(counted.payload_bytes for counted in traffic) / total,
        message_bytes=sum(counted.message_bytes for counted in traffic) / total,
        messages=sum(counted.messages for counted in traffic) / total,
        busy_seconds=_busy(layers_before, layers_after),
        cpu_seconds=cpu_between(before, after, layers_only=True) / load.seconds * step_seconds / layers,
        rss_bytes=int(median(usage.rss_bytes for usage in after.values() if usage.is_layer)),
    )


def _busy(before: Layers, after: Layers) -> float:
    """Seconds per step in which a layer does not wait: the mean over the layers, each with its own count of steps."""
    per_step = []
    for layer, status in after.items():
        since = before.get(layer)  # None if the layer's first answer was still in transit
        done = status.step + status.finished - (since.step if since else 0)
        per_step.append((status.busy_seconds - (since.busy_seconds if since else 0.0)) / max(1, done))
    return sum(per_step) / len(per_step)
