"""The peer in one process: torch's own autograd and SGD on the whole network.

python -m distfa.bench.torch_single --spec JSON --threads N --warmup STEPS
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from distfa.bench import steady
from distfa.bench.peers import launch
from distfa.bench.steady import Steady
from distfa.bench.work import Work, loss_part, modules, set_rate, torch_optimizer
from distfa.core import order
from distfa.experiment.spec import RunSpec, parse


@dataclass(frozen=True, kw_only=True)
class SingleRun:
    """What a run in one process came to: the loss before every update, and its steady state."""

    losses: list[float]
    steady: Steady


def run(spec: RunSpec, *, threads: int, warmup: int, deadline_seconds: float) -> SingleRun:
    """Train by the spec in a process of its own.

    Args:
        spec: Its rule and engine are not used: this is backpropagation.
        threads: Of torch.
        warmup: Steps before the measurement begins.
        deadline_seconds: For the whole run.

    Raises:
        BenchError: It failed, or did not end in time.
    """
    command = [sys.executable, "-m", "distfa.bench.torch_single", "--spec", spec.model_dump_json()]
    command += ["--threads", str(threads), "--warmup", str(warmup)]
    name = f"torch in one process ({threads} threads)"
    report = launch(name, [command], environment=os.environ, deadline_seconds=deadline_seconds)[0]
    return SingleRun(losses=report["losses"], steady=Steady(**report["steady"]))


def train(work: Work, losses: list[float]) -> Iterator[int]:
    """Train to the end; yields the rows of every step, and appends its loss to ``losses``."""
    recipe, (samples, _) = work.recipe, work.splits()
    model = modules(recipe, range(1, len(recipe.network) + 1))
    optimizer = torch_optimizer(recipe.optimizer, list(model.parameters()))
    for batch in order.batches(recipe, len(samples.inputs)):
        rows = np.concatenate(batch.parts)
        optimizer.zero_grad()
        loss = loss_part(model(samples.inputs.read(rows)), samples.targets.read(rows), len(rows))
        loss.backward()  # type: ignore[no-untyped-call]
        set_rate(optimizer, recipe, batch.step, len(samples.inputs))
        optimizer.step()
        losses.append(loss.item())
        yield len(rows)


def main() -> None:
    """Train as the arguments say; one JSON object on stdout."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--spec", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--warmup", type=int, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    losses: list[float] = []
    steps = train(Work.of(parse(json.loads(given.spec))), losses)
    found = steady.watch(steps, warmup=given.warmup)
    print(json.dumps({"losses": losses, "steady": found.as_dict()}))


if __name__ == "__main__":
    main()
