"""One stage of the pipeline peer: some layers of the network in this process, the others over gloo."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.nn import functional as F

from distfa.bench import steady
from distfa.bench.torch_pipeline import Pipeline
from distfa.bench.work import Work, loss_part, modules, set_rate, torch_optimizer
from distfa.core import order
from distfa.experiment.spec import RunSpec


def run(
    spec: RunSpec,
    pipeline: Pipeline,
    *,
    rank: int,
    meeting: str,
    warmup: int,
    target_accuracy: float | None,
    deadline_seconds: float,
) -> dict[str, Any]:
    """Be stage ``rank`` of a run; arguments as ``torch_pipeline.run``.

    Args:
        rank: Counted from 0 at the inputs.
        meeting: A file, none yet, by which the processes find each other.

    Returns:
        ``steps``, ``losses``, ``evaluations``, ``payload_bytes`` this stage sent, ``steady``.
    """
    torch.set_num_threads(pipeline.threads)
    os.environ["GLOO_SOCKET_IFNAME"] = pipeline.interfaces[rank if len(pipeline.interfaces) > 1 else 0]
    dist.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=pipeline.processes,
        timeout=timedelta(seconds=deadline_seconds),
    )
    stage = _Stage(Work.of(spec), pipeline, rank, target_accuracy)
    found = None
    if target_accuracy is None:
        found = steady.watch(stage.steps(), warmup=warmup).as_dict()
    else:
        for _ in stage.steps():
            pass
    dist.barrier()  # nobody leaves while a neighbour still reads
    dist.destroy_process_group()
    return {
        "steps": stage.done,
        "losses": stage.losses,
        "evaluations": stage.evaluations,
        "payload_bytes": stage.payload_bytes,
        "steady": found,
    }


class _Stage:
    """The layers of one process and what they have done so far."""

    def __init__(self, work: Work, pipeline: Pipeline, rank: int, target_accuracy: float | None) -> None:
        self._recipe, self._target, self._rank = work.recipe, target_accuracy, rank
        self._train, self._test = work.splits()
        self._first, self._last = rank == 0, rank == pipeline.processes - 1
        layers = pipeline.stages(len(work.recipe.network))[rank]
        self._inputs = work.recipe.network[layers[0]].inputs
        self._outputs = work.recipe.network[layers[-1]].outputs
        self._module = modules(work.recipe, layers)
        self._optimizer = torch_optimizer(work.recipe.optimizer, list(self._module.parameters()))
        make = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}[pipeline.schedule]
        rows = work.recipe.batch_size
        self._schedule = make(
            PipelineStage(self._module, rank, pipeline.processes, torch.device("cpu")),
            n_microbatches=pipeline.micro_batches,
            loss_fn=lambda output, target: loss_part(output, target, rows),
            scale_grads=False,  # loss_part already is a share of the batch's mean
        )
        self.done = 0
        self.losses: list[float] = []
        self.evaluations: list[dict[str, float]] = []
        self._seconds = 0.0

    @property
    def payload_bytes(self) -> int:
        """Activations up and gradients down that this stage has sent in training."""
        columns = (0 if self._last else self._outputs) + (0 if self._first else self._inputs)
        return self.done * self._recipe.batch_size * columns * self._recipe.signal_dtype.itemsize

    def steps(self) -> Iterator[int]:
        """Train to the end or the target; yields the rows of every step."""
        for batch in order.batches(self._recipe, len(self._train.inputs)):
            if batch.rows == self._recipe.batch_size:
                began = time.monotonic()
                self._step(batch)
                self._seconds += time.monotonic() - began
                yield batch.rows
            if self._target is not None and batch.evaluate and self._reached(self._target, batch.step):
                return

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

    @torch.no_grad()
    def _reached(self, target_accuracy: float, step: int) -> bool:
        """Pass the test set up the stages; whether the accuracy is as asked for, agreed by all."""
        loss, correct, total = 0.0, 0, len(self._test.inputs)
        for rows in order.evaluation(total):
            if self._first:
                h = self._test.inputs.read(rows)
            else:
                h = torch.empty(len(rows), self._inputs, dtype=self._recipe.signal_dtype)
                dist.recv(h, self._rank - 1)
            h = self._module(h)
            if self._last:
                target = self._test.targets.read(rows)
                loss += F.cross_entropy(h, target, reduction="sum").item() / total
                correct += int((h.argmax(1) == target).sum())
            else:
                dist.send(h, self._rank + 1)
        reached = torch.tensor([0])
        if self._last:
            accuracy = correct / total
            self.evaluations.append({"step": step, "loss": loss, "accuracy": accuracy, "seconds": self._seconds})
            reached[0] = accuracy >= target_accuracy
        dist.broadcast(reached, dist.get_world_size() - 1)
        return bool(reached)
