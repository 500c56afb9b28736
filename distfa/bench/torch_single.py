"""torch in one process: its own autograd and SGD on the whole network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from distfa.bench import steady_state
from distfa.bench.steady_state import Steady
from distfa.bench.subprocesses import command, launch
from distfa.bench.task import Task, loss_part, modules, set_rate, torch_optimizer
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
    name = f"torch in one process ({threads} threads)"
    here = command(_train, spec=spec.model_dump(mode="json"), threads=threads, warmup=warmup)
    (report,) = launch(name, [here], deadline_seconds=deadline_seconds)
    return SingleRun(losses=report["losses"], steady=Steady(**report["steady"]))


def _train(*, spec: dict[str, Any], threads: int, warmup: int) -> dict[str, Any]:
    """In a process of its own: train to the end."""
    torch.set_num_threads(threads)
    losses: list[float] = []
    found = steady_state.watch(_steps(Task.of(parse(spec)), losses), warmup=warmup)
    return {"losses": losses, "steady": asdict(found)}


def _steps(task: Task, losses: list[float]) -> Iterator[int]:
    """Yields the rows of every step, and appends its loss to ``losses``."""
    recipe, (samples, _) = task.recipe, task.splits()
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
