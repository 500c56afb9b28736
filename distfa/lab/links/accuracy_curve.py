"""Accuracy by steps and bytes: what a configuration needs to reach a target.

The serial engine has the same bits as a distributed run. So its accuracy after a step is that of the distributed run,
and so are the payloads, which are encoded here as they are on the wire.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from distfa.core.books.records import StepRecord
from distfa.core.serial import evaluate_layers
from distfa.measuring.subprocesses import command, launch
from distfa.measuring.task import Task, meter
from distfa.settings import RunSpec, parse_spec


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Test accuracy, evaluated at regular steps until it reaches a target.

    Attributes:
        steps: Updates made before each evaluation.
        payload_bytes: Bytes sent before each evaluation, up and down over all boundaries.
        accuracy: 0 to 1.
        reached: Whether the last evaluation met the target.
    """

    steps: list[int]
    payload_bytes: list[int]
    accuracy: list[float]
    reached: bool


def measure_curves(specs: Sequence[RunSpec], *, every: int, target: float, deadline_seconds: float) -> list[Curve]:
    """Train every spec, each in a process, until it meets the target or ends; as many at once as torch has threads.

    Args:
        specs: Configurations, with schedule ``sync``.
        every: Steps between evaluations.
        target: Test accuracy, 0 to 1.
        deadline_seconds: Longest time for each.

    Raises:
        BenchError: A run failed, or did not end in time.
    """

    def train(spec: RunSpec) -> Curve:
        line = command(_one, spec=spec.model_dump(mode="json"), every=every, target=target)
        (report,) = launch("accuracy by steps", [line], deadline_seconds=deadline_seconds)
        return Curve(**report)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        try:
            return list(pool.map(train, specs))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _one(*, spec: dict[str, Any], every: int, target: float) -> dict[str, Any]:
    return asdict(train_to(parse_spec(spec), every=every, target=target))


def train_to(spec: RunSpec, *, every: int, target: float) -> Curve:
    """Train in this process, on one thread as a layer does; the arguments are those of ``measure_curves``."""
    torch.set_num_threads(1)
    task, sent = Task.of(spec), list[int]()
    trainer, (_, test) = task.trainer(*meter(spec, task.recipe.signal_dtype, sent)), task.splits()
    curve = Curve(steps=[], payload_bytes=[], accuracy=[], reached=False)
    for record in trainer.run():
        # a step's record comes when all layers have made its update, and none has begun the next step
        if isinstance(record, StepRecord) and (record.step + 1) % every == 0:
            score = evaluate_layers(task.recipe, trainer.layers, test)
            curve.steps.append(record.step + 1)
            curve.payload_bytes.append(sum(sent))
            curve.accuracy.append(score.correct / (score.rows * task.answers_per_sample))
            if curve.accuracy[-1] >= target:
                return replace(curve, reached=True)
    return curve
