"""Accuracy by steps and bytes: what a configuration needs to reach a target.

    python -m distfa.bench.curve --spec JSON --every STEPS --target ACCURACY

The serial engine has the very bits of a distributed run, so its accuracy after a step is the distributed run's, and
so are the payloads, encoded here as they are on the wire.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from distfa import codecs
from distfa.bench.peers import launch
from distfa.bench.work import Work
from distfa.codecs import Codec
from distfa.core.records import StepRecord
from distfa.core.serial import SerialTrainer, evaluate
from distfa.experiment.spec import RunSpec, parse


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Test accuracy, evaluated every so many steps until it reaches a target.

    Attributes:
        steps: Updates made before each evaluation.
        payload_bytes: Sent before each evaluation, up and down over all boundaries.
        accuracy: 0 to 1.
        reached: Whether the last evaluation met the target.
    """

    steps: list[int]
    payload_bytes: list[int]
    accuracy: list[float]
    reached: bool


def measure(specs: Sequence[RunSpec], *, every: int, target: float, deadline_seconds: float) -> list[Curve]:
    """Train every spec until it meets the target or ends, side by side in processes of their own.

    Args:
        specs: Configurations.
        every: Steps between evaluations.
        target: Test accuracy, 0 to 1.
        deadline_seconds: For all of them together.

    Raises:
        BenchError: One failed, or they did not end in time.
    """
    more = ["--every", str(every), "--target", str(target)]
    commands = [[sys.executable, "-m", "distfa.bench.curve", "--spec", spec.model_dump_json(), *more] for spec in specs]
    reports = launch("accuracy by steps", commands, environment=os.environ, deadline_seconds=deadline_seconds)
    return [Curve(**report) for report in reports]


class Trial:
    """One training run in this process, on one thread as a layer does; its wire is metered.

    Args:
        spec: What to train, with schedule ``sync``.
        every: Steps between evaluations.
        target: Accuracy that ends it.
    """

    def __init__(self, spec: RunSpec, *, every: int, target: float) -> None:
        torch.set_num_threads(1)
        work = Work.of(spec)
        train, self._test = work.splits()
        self._up, self._down = (
            codecs.resolve(name, work.recipe.signal_dtype) for name in (spec.codec.activations, spec.codec.errors)
        )
        self._trainer = SerialTrainer(
            work.recipe, train, self._test, carry_activation=self._carry_up, carry_error=self._carry_down
        )
        self._every, self._target = every, target
        self._done = self._sent_bytes = 0
        self._due = self._reached = False
        self._points: list[tuple[int, int, float]] = []

    def run(self) -> Curve:
        """Train until the target or the end."""
        for record in self._trainer.run():
            if self._reached:
                break
            if isinstance(record, StepRecord):
                self._done = record.step + 1
                self._due = self._done % self._every == 0
        if self._due:
            self._evaluate()
        return Curve(
            steps=[steps for steps, _, _ in self._points],
            payload_bytes=[count for _, count, _ in self._points],
            accuracy=[accuracy for _, _, accuracy in self._points],
            reached=self._reached,
        )

    def _carry_up(self, signal: Tensor) -> Tensor:
        """The first activation of a step finds every layer's update of the step before made, and none of its own."""
        if self._due:
            self._evaluate()
        return self._carry(self._up, signal)

    def _carry_down(self, signal: Tensor) -> Tensor:
        return self._carry(self._down, signal)

    def _carry(self, codec: Codec, signal: Tensor) -> Tensor:
        """What the receiver sees of a signal."""
        payload, (rows, columns) = codec.encode(signal), signal.shape
        self._sent_bytes += payload.nbytes
        return codec.decode(payload, rows, columns, signal.dtype)

    def _evaluate(self) -> None:
        _, correct, rows = evaluate(self._trainer.layers, self._test)
        self._points.append((self._done, self._sent_bytes, correct / rows))
        self._due, self._reached = False, correct / rows >= self._target


def main() -> None:
    """Train as the arguments say; one JSON object on stdout."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--spec", required=True)
    parser.add_argument("--every", type=int, required=True)
    parser.add_argument("--target", type=float, required=True)
    given = parser.parse_args()
    print(json.dumps(asdict(Trial(parse(json.loads(given.spec)), every=given.every, target=given.target).run())))


if __name__ == "__main__":
    main()
