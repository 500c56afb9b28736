"""Plain torch beside rule bp: the same model, start, data and order, with autograd in one loop, for any module."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from distfa.bench import torch_training
from distfa.core.base import order
from distfa.core.base.threads import one_thread
from distfa.data import Dataset
from distfa.measuring.task import Task
from distfa.settings import RunSpec


def train(spec: RunSpec, dataset: Dataset) -> dict[str, Any]:
    """``test_accuracy`` in percent and ``test_loss`` of the spec's model, trained by torch on one thread.

    Batches are not split: what distfa adds up over micro-batches is the same mean, except with batch normalisation.
    """
    task = Task.of(spec, dataset)
    model = torch_training.whole(task)
    with one_thread():
        for _ in torch_training.by_autograd(task, model, []):
            pass
        return _tested(task, model)


def _tested(task: Task, model: nn.Module) -> dict[str, Any]:
    model.eval()
    _, test = task.splits()
    loss, correct, total = 0.0, 0, len(test.inputs) * task.answers
    with torch.no_grad():
        for rows in order.evaluation(task.recipe, len(test.inputs)):
            logits, labels = model(test.inputs.read(rows)), test.targets.read(rows)
            loss += torch_training.loss_part(logits, labels, total).item()
            correct += int((logits.argmax(-1) == labels).sum())
    return {"test_accuracy": 100 * correct / total, "test_loss": loss}
