"""Plain torch beside rule bp: the same model, start, data and order, by autograd in one loop, for any module."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from torch import nn

from distfa.bench.torch_training import loss_part, modules, torch_optimizer
from distfa.core import optim, order
from distfa.core.samples import Inputs, Targets
from distfa.core.threads import one_thread
from distfa.data import Dataset
from distfa.experiment.spec import RunSpec
from distfa.experiment.subject import raw_samples, subject_for


def train(spec: RunSpec, dataset: Dataset) -> dict[str, Any]:
    """``test_accuracy`` in percent and ``test_loss`` of the spec's model, trained by torch on one thread.

    Batches are whole: what distfa adds up over micro-batches is the same mean, but for batch normalisation.
    """
    subject = subject_for(spec, dataset)
    recipe = spec.recipe(subject.network)
    if subject.model is None:
        model: nn.Module = modules(recipe, range(1, len(recipe.network) + 1))
    else:
        model = copy.deepcopy(subject.model)
    device = torch.device("cpu")
    inputs, targets = raw_samples(recipe.network, dataset)
    (x, test_x), (y, test_y) = inputs.readers(recipe.dtype, device), targets.readers(recipe.dtype, device)
    optimizer, total = torch_optimizer(recipe.optimizer, list(model.parameters())), order.steps(recipe, len(x))
    with one_thread():
        for batch in order.batches(recipe, len(x)):
            rows = np.concatenate(batch.parts)
            optimizer.zero_grad()
            positions = math.prod(recipe.network.positions)
            logits = model(x.read(rows)).flatten(0, -2)
            loss_part(logits, y.read(rows).flatten(), len(rows) * positions).backward()  # type: ignore[no-untyped-call]
            for group in optimizer.param_groups:
                group["lr"] = optim.rate(recipe.optimizer, batch.step, total)
            optimizer.step()
        return _tested(model, recipe.network.positions, test_x, test_y, order.evaluation(recipe, len(test_x)))


def _tested(model: nn.Module, positions: tuple[int, ...], x: Inputs, y: Targets, parts: Any) -> dict[str, Any]:
    model.eval()
    loss, correct, total = 0.0, 0, len(x) * math.prod(positions)
    with torch.no_grad():
        for rows in parts:
            logits, labels = model(x.read(rows)).flatten(0, -2), y.read(rows).flatten()
            loss += loss_part(logits, labels, total).item()
            correct += int((logits.argmax(1) == labels).sum())
    return {"test_accuracy": 100 * correct / total, "test_loss": loss}
