"""One stage of the pipeline peer: some layers of the network in this process, the others over gloo."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
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
        ``losses``, ``payload_bytes`` this stage sent, ``steady``.
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
    task, losses = Task.of(spec), list[float]()
    found = steady_state.watch(_steps(task, pipeline, rank, losses), warmup=warmup)
    dist.barrier()  # nobody leaves while a neighbour still reads
    dist.destroy_process_group()
    layers, network = pipeline.stages(len(task.recipe.network))[rank], task.recipe.network
    columns = (network[layers[0]].inputs if rank else 0) + (
        network[layers[-1]].outputs if layers[-1] < len(network) else 0
    )
    sent = len(losses) * task.recipe.batch_size * columns * task.recipe.signal_dtype.itemsize
    return {"losses": losses, "payload_bytes": sent, "steady": asdict(found)}


def _steps(task: Task, pipeline: Pipeline, rank: int, losses: list[float]) -> Iterator[int]:
    """Yields the rows of every step; its loss, known to the last stage only, goes to ``losses``."""
    recipe, (train, _), is_last = task.recipe, task.splits(), rank == pipeline.processes - 1
    module = modules(recipe, pipeline.stages(len(recipe.network))[rank])
    optimizer = torch_optimizer(recipe.optimizer, list(module.parameters()))
    schedule = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}[pipeline.schedule](
        PipelineStage(module, rank, pipeline.processes, torch.device("cpu")),
        n_microbatches=pipeline.micro_batches,
        loss_fn=lambda output, target: loss_part(output, target, recipe.batch_size),
        scale_grads=False,  # loss_part already is a share of the batch's mean
    )
    for batch in order.batches(recipe, len(train.inputs)):
        if batch.rows != recipe.batch_size:
            continue
        rows, parts = np.concatenate(batch.parts), list[Tensor]()
        optimizer.zero_grad()
        inputs = [train.inputs.read(rows)] if rank == 0 else []
        last: dict[str, Any] = {"target": train.targets.read(rows), "losses": parts} if is_last else {}
        schedule.step(*inputs, **last, return_outputs=False)
        set_rate(optimizer, recipe, batch.step, len(train.inputs))
        optimizer.step()
        losses.append(sum(part.item() for part in parts))
        yield batch.rows
