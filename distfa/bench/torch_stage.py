"""One stage of the pipeline peer: some layers of the network in this process, the others over gloo."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

from distfa.bench import steady_state
from distfa.bench.task import Task, loss_part, modules, set_rate, torch_optimizer
from distfa.bench.torch_pipeline import Pipeline
from distfa.core import order
from distfa.experiment.spec import RunSpec


def run(
    spec: RunSpec,
    pipeline: Pipeline,
    *,
    rank: int,
    meeting: str,
    warmup: int,
    deadline_seconds: float,
) -> dict[str, Any]:
    """Be stage ``rank`` of a run; arguments as ``torch_pipeline.run``.

    Args:
        rank: Counted from 0 at the inputs.
        meeting: A file, none yet, by which the processes find each other.

    Returns:
        ``steps``, ``losses``, ``payload_bytes`` this stage sent, ``steady``.
    """
    torch.set_num_threads(pipeline.threads)
    os.environ["GLOO_SOCKET_IFNAME"] = pipeline.interface
    dist.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=pipeline.processes,
        timeout=timedelta(seconds=deadline_seconds),
    )
    stage = _Stage(Task.of(spec), pipeline, rank)
    found = steady_state.watch(stage.steps(), warmup=warmup)
    dist.barrier()  # nobody leaves while a neighbour still reads
    dist.destroy_process_group()
    return {
        "steps": stage.done,
        "losses": stage.losses,
        "payload_bytes": stage.payload_bytes,
        "steady": found.as_dict(),
    }


class _Stage:
    """The layers of one process and what they have done so far."""

    def __init__(self, task: Task, pipeline: Pipeline, rank: int) -> None:
        self._recipe, (self._train, _) = task.recipe, task.splits()
        self._first, self._last = rank == 0, rank == pipeline.processes - 1
        layers = pipeline.stages(len(task.recipe.network))[rank]
        self._inputs = task.recipe.network[layers[0]].inputs
        self._outputs = task.recipe.network[layers[-1]].outputs
        self._module = modules(task.recipe, layers)
        self._optimizer = torch_optimizer(task.recipe.optimizer, list(self._module.parameters()))
        make = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}[pipeline.schedule]
        rows = task.recipe.batch_size
        self._schedule = make(
            PipelineStage(self._module, rank, pipeline.processes, torch.device("cpu")),
            n_microbatches=pipeline.micro_batches,
            loss_fn=lambda output, target: loss_part(output, target, rows),
            scale_grads=False,  # loss_part already is a share of the batch's mean
        )
        self.done = 0
        self.losses: list[float] = []

    @property
    def payload_bytes(self) -> int:
        """Activations up and gradients down that this stage has sent."""
        columns = (0 if self._last else self._outputs) + (0 if self._first else self._inputs)
        return self.done * self._recipe.batch_size * columns * self._recipe.signal_dtype.itemsize

    def steps(self) -> Iterator[int]:
        """Train to the end; yields the rows of every step."""
        for batch in order.batches(self._recipe, len(self._train.inputs)):
            if batch.rows == self._recipe.batch_size:
                self._step(batch)
                yield batch.rows

    def _step(self, batch: order.Batch) -> None:
        rows = np.concatenate(batch.parts)
        self._optimizer.zero_grad()
        if self._first:
            self._schedule.step(self._train.inputs.read(rows), return_outputs=False)
        elif self._last:
            parts: list[Tensor] = []
            self._schedule.step(target=self._train.targets.read(rows), losses=parts, return_outputs=False)
            self.losses.append(sum(part.item() for part in parts))
        else:
            self._schedule.step(return_outputs=False)
        set_rate(self._optimizer, self._recipe, batch.step, len(self._train.inputs))
        self._optimizer.step()
        self.done += 1
