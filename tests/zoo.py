"""Small networks of every kind, with data, for tests: (recipe, modules, samples)."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from runs import grouped, with_no_paths
from torch import nn

from distfa import models
from distfa.core.base.optim import OptimizerConfig
from distfa.core.base.recipe import Recipe
from distfa.core.modules.split import group, layer_module
from distfa.runtime.job import RawInputs, RawTargets
from distfa.sections.split import split


def _samples(shape, outputs, tokens=None, positions=1):
    return SimpleNamespace(name="toy", shape=shape, outputs=outputs, tokens=tokens, positions=positions)


def _lenet():
    return models.lenet((1, 28, 28), 7), (1, 28, 28), 7


def _resnet():
    """A ResNet with BatchNorm: a stem, three residual blocks of which one halves the image, a readout."""
    block = models.ResidualBlock
    stem = [nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()]
    body = [block(4, 4), block(4, 6, stride=2), block(6, 6)]
    return nn.Sequential(*stem, *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)), (3, 8, 8), 5


def _residual_mlp():
    return models.residual_mlp(12, 5, width=9, depth=2), (12,), 5


def _transformer():
    return models.transformer(11, 6, width=8, heads=2, depth=2, dropout=0.1), (6,), 11


NETWORKS = {"lenet": _lenet, "resnet": _resnet, "residual_mlp": _residual_mlp, "transformer": _transformer}


def made(name, *, rows=22, test_rows=6, dtype=torch.float32, **changes):
    """(recipe, modules by layer, (inputs, targets)) of one of ``NETWORKS``."""
    torch.manual_seed(3)
    model, shape, outputs = NETWORKS[name]()
    return prepared(model.to(dtype), shape, outputs, rows=rows, test_rows=test_rows, dtype=dtype, **changes)


def prepared(model, shape, outputs, *, tokens=None, rows=22, test_rows=6, dtype=torch.float32, **changes):
    """The same of a model of one's own; tokens are taken where the first module is an embedding."""
    rng = np.random.default_rng(5)
    embeds = any(isinstance(m, nn.Embedding) for m in next(model.children()).modules())
    if embeds:
        tokens = tokens or next(m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding))
        x = rng.integers(0, tokens, (rows + test_rows, *shape)).reshape(rows + test_rows, -1)
    else:
        x = rng.standard_normal((rows + test_rows, int(np.prod(shape))))
    network = with_no_paths(split(model, shape, tokens=embeds))
    y = rng.integers(0, outputs, (rows + test_rows, *network.positions))
    one = np.ones(1)
    inputs = RawInputs(
        train=x[:rows],
        test=x[rows:],
        mean=0 * one if embeds else 0.1 * one,
        std=one,
        shape=network.shapes[0],
        tokens=embeds,
    )
    settings = {
        "optimizer": OptimizerConfig(name="adam", lr=3e-3, weight_decay=1e-3),
        "batch_size": 8,
        "seed": 7,
        "dtype": dtype,
        **grouped({"epochs": 3, **changes}),
    }
    modules = {number: layer_module(part) for number, part in enumerate(group(model), start=1)}
    return Recipe(network=network, **settings), modules, (inputs, RawTargets(train=y[:rows], test=y[rows:]))


class Shared(nn.Module):
    """One Linear used twice, within one module."""

    def __init__(self):
        super().__init__()
        self.once = nn.Linear(6, 6)
        self.again = self.once

    def forward(self, x):
        return self.again(torch.relu(self.once(x)))
