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
from torch import Tensor

from distfa.core.books.records import StepRecord
from distfa.core.serial import SerialTrainer, evaluate
from distfa.measuring.subprocesses import command, launch
from distfa.measuring.task import Task, metered
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


def measure(specs: Sequence[RunSpec], *, every: int, target: float, deadline_seconds: float) -> list[Curve]:
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
    return asdict(MeteredRun(parse_spec(spec), every=every, target=target).train())


class MeteredRun:
    """One training run in this process, on one thread as a layer does; its wire is metered.

    Args:
        spec: As for ``measure``.
        every: Steps between evaluations.
        target: Accuracy that ends it.
    """

    def __init__(self, spec: RunSpec, *, every: int, target: float) -> None:
        torch.set_num_threads(1)
        task = Task.of(spec)
        train, self._test = task.splits()
        self._sent: list[int] = []
        wire = metered(spec, task.recipe.signal_dtype, self._sent)
        self._up = wire["carry_activation"]
        wire["carry_activation"] = self._carry_up
        self._trainer = SerialTrainer(task.recipe, train, self._test, modules=task.modules, **wire)
        self._answers = task.answers
        self._every, self._target = every, target
        self._done, self._due = 0, False
        self._curve = Curve(steps=[], payload_bytes=[], accuracy=[], reached=False)

    def train(self) -> Curve:
        """Train until the target or the end."""
        for record in self._trainer.run():
            if self._reached:
                break
            if isinstance(record, StepRecord):
                self._done = record.step + 1
                self._due = self._done % self._every == 0
        if self._due:
            self._evaluate()
        return replace(self._curve, reached=self._reached)

    @property
    def _reached(self) -> bool:
        return bool(self._curve.accuracy) and self._curve.accuracy[-1] >= self._target

    def _carry_up(self, signal: Tensor) -> Tensor:
        """Before a step's first activation, every layer has made the update of the last step, and none of this one."""
        if self._due:
            self._evaluate()
        return self._up(signal)

    def _evaluate(self) -> None:
        _, correct, rows = evaluate(self._trainer.recipe, self._trainer.layers, self._test)
        self._curve.steps.append(self._done)
        self._curve.payload_bytes.append(sum(self._sent))
        self._curve.accuracy.append(correct / (rows * self._answers))
        self._due = False
