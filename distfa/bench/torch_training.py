"""torch's own training loop: for a whole network, or in a separate process for one stage of torch's pipelining."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from distfa.core.base import optim, order
from distfa.core.base.draw import initial_weight
from distfa.core.base.recipe import Recipe
from distfa.core.base.threads import use_threads
from distfa.data import Dataset
from distfa.measuring import steady_state
from distfa.measuring.machine import cores
from distfa.measuring.task import Task
from distfa.settings import RunSpec, parse_spec


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """How a network is spread over processes, and in which order they work.

    Attributes:
        layers: How many layers the network has.
        processes: Number of stages; layers are divided among them in order, as evenly as possible.
        schedule: ``gpipe`` or ``1f1b``.
        micro_batches: Equal parts of a batch.
        interface: Network interface of every process.
        prefixes: What to put before the command of every process, such as ``("ip", "netns", "exec", "n0")``;
            empty for nothing.
    """

    layers: int
    processes: int
    schedule: str = "gpipe"
    micro_batches: int = 1
    interface: str = "lo"
    prefixes: Sequence[Sequence[str]] = field(default=())

    @property
    def name(self) -> str:
        """Its name in tables and messages."""
        return f"torch {self.schedule}, {self.processes} processes, M={self.micro_batches}"

    def stage(self, rank: int) -> tuple[int, int]:
        """The first and the last layer of a process, counted from 1."""
        return 1 + self.layers * rank // self.processes, self.layers * (rank + 1) // self.processes


def single(*, spec: dict[str, Any], threads: int, warmup: int) -> dict[str, Any]:
    """Train the whole network with autograd; returns ``losses`` and ``steady``."""
    torch.set_num_threads(threads)
    task, losses = Task.of(parse_spec(spec)), list[float]()
    found = steady_state.measure_steady_state(by_autograd(task, whole(task), losses), warmup=warmup)
    return {"losses": losses, "steady": asdict(found)}


def train(spec: RunSpec, dataset: Dataset) -> dict[str, float]:
    """``test_accuracy`` in percent and ``test_loss`` of the spec's model, trained on one thread in this process.

    Batches are not split: what distfa adds up over micro-batches is the same mean, except with batch normalisation.
    """
    task = Task.of(spec, dataset)
    model, (_, test) = whole(task), task.splits()
    loss, correct, total = 0.0, 0, len(test.inputs) * task.answers_per_sample
    with use_threads():
        for _ in by_autograd(task, model, []):
            pass
        model.eval()
        with torch.no_grad():
            for rows in order.evaluation(task.recipe, len(test.inputs)):
                logits, labels = model(test.inputs.read(rows)), test.targets.read(rows)
                loss += loss_part(logits, labels, total).item()
                correct += int((logits.argmax(-1) == labels).sum())
    return {"test_accuracy": 100 * correct / total, "test_loss": loss}


def by_autograd(task: Task, model: nn.Module, losses: list[float]) -> Iterator[int]:
    """Train in one loop; yields the rows of every step when it is done, and adds its loss to ``losses``."""
    train, _ = task.splits()

    def backward(rows: NDArray[np.int64]) -> float:
        loss = loss_part(model(train.inputs.read(rows)), train.targets.read(rows), len(rows) * task.answers_per_sample)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    return _steps(task, model, backward, losses)


def stage(
    *, spec: dict[str, Any], pipeline: dict[str, Any], rank: int, meeting: str, warmup: int, deadline_seconds: float
) -> dict[str, Any]:
    """Train one stage of a pipeline; the others are in other processes, over gloo.

    Args:
        spec: The run.
        pipeline: The fields of a ``Pipeline``.
        rank: Counted from 0 at the inputs.
        meeting: A file that does not exist yet, through which the processes find each other.
        warmup: Steps before the measurement begins.
        deadline_seconds: Longest time for the whole run.

    Returns:
        ``losses``, which only the last stage knows, ``payload_bytes`` that this stage sent, ``steady``.
    """
    from torch import distributed as dist  # imported here, because a parent process needs neither
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

    how = Pipeline(**pipeline)
    torch.set_num_threads(max(1, cores() // how.processes))
    os.environ["GLOO_SOCKET_IFNAME"], timeout = how.interface, timedelta(seconds=deadline_seconds)
    there = f"file://{meeting}"
    dist.init_process_group("gloo", init_method=there, rank=rank, world_size=how.processes, timeout=timeout)
    task = Task.of(parse_spec(spec))
    recipe, (train, _), losses = task.recipe, task.splits(), list[float]()
    first, last = how.stage(rank)
    module, is_last = model_of(task, range(first, last + 1)), rank == how.processes - 1
    worked = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}[how.schedule](
        PipelineStage(module, rank, how.processes, torch.device("cpu")),
        n_microbatches=how.micro_batches,
        loss_fn=lambda output, target: loss_part(output, target, recipe.batch_size * task.answers_per_sample),
        scale_grads=False,  # loss_part is already a share of the batch's mean
    )

    def backward(rows: NDArray[np.int64]) -> float:
        parts: list[Tensor] = []
        wanted: dict[str, Any] = {"target": train.targets.read(rows), "losses": parts} if is_last else {}
        worked.step(*([] if rank else [train.inputs.read(rows)]), **wanted, return_outputs=False)
        return sum(part.item() for part in parts)

    found = steady_state.measure_steady_state(_steps(task, module, backward, losses, whole_batches=True), warmup=warmup)
    dist.barrier()  # no process ends while a neighbour still reads
    dist.destroy_process_group()
    columns = (recipe.network[first].inputs if rank else 0) + (0 if is_last else recipe.network[last].outputs)
    sent = len(losses) * recipe.batch_size * columns * recipe.signal_dtype.itemsize
    return {"losses": losses, "payload_bytes": sent, "steady": asdict(found)}


def _steps(
    task: Task,
    model: nn.Module,
    backward: Callable[[NDArray[np.int64]], float],
    losses: list[float],
    *,
    whole_batches: bool = False,
) -> Iterator[int]:
    """Yields the rows of every step after its update; the loss that ``backward`` returns goes to ``losses``."""
    recipe, samples = task.recipe, len(task.inputs.train)
    optimizer = _optimizer(recipe.optimizer, model)
    for batch in order.batches(recipe, samples):
        if whole_batches and batch.rows != recipe.batch_size:
            continue
        optimizer.zero_grad()
        losses.append(backward(np.concatenate(batch.parts)))
        for group in optimizer.param_groups:
            group["lr"] = optim.rate(recipe.optimizer, batch.step, order.count_steps(recipe, samples))
        optimizer.step()
        yield batch.rows


class _Mixed(nn.Sequential):
    """A ``Sequential`` whose products are in bfloat16, by torch's own autocast."""

    def forward(self, input: Tensor) -> Tensor:
        """The output of the modules."""
        with torch.autocast(input.device.type, torch.bfloat16):
            for module in self:
                input = module(input)
        return input


def whole(task: Task) -> nn.Sequential:
    """The network as a torch model, with the initial weights that distfa would give it."""
    return model_of(task, range(1, len(task.recipe.network) + 1))


def model_of(task: Task, layers: range) -> nn.Sequential:
    """Some layers of the network, counted from 1, as a torch model with the initial weights that distfa would give.

    In a mixed run they compute with torch's autocast, so that what a stage sends is bfloat16 too.
    """
    own, recipe = task.modules, task.recipe
    built = [copy.deepcopy(own[layer]) if layer in own else _draw_layer(recipe, layer) for layer in layers]
    return (_Mixed if recipe.mixed else nn.Sequential)(*built)


def _draw_layer(recipe: Recipe, layer: int) -> nn.Module:
    """A Linear and its activation, with weights drawn from the seed."""
    shape = recipe.network[layer]
    linear = nn.Linear(shape.inputs, shape.outputs, bias=shape.bias, dtype=recipe.dtype)
    with torch.no_grad():
        linear.weight.copy_(initial_weight(recipe, layer))
        if shape.bias:
            linear.bias.zero_()
    return nn.Sequential(linear, shape.activation.module())


def _optimizer(config: optim.OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """torch's own optimizer class, fused, with distfa's settings."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
    if config.name == "sgd":
        return torch.optim.SGD(parameters, momentum=config.momentum, nesterov=config.nesterov, **common)
    adam: type[torch.optim.Adam] = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return adam(parameters, betas=config.betas, eps=config.eps, **common)


def loss_part(output: Tensor, target: Tensor, answers: int) -> Tensor:
    """A micro-batch's share of the mean loss over the answers of a batch, so that shares and gradients add up."""
    wide = output.to(torch.promote_types(output.dtype, torch.float32)).flatten(0, -2)
    return F.cross_entropy(wide, target.flatten(), reduction="sum") / answers
