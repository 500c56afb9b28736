"""What every engine of a benchmark is given, from one spec: the same network, weights, samples and order."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distfa import codecs, data
from distfa.core import optim, order
from distfa.core.draw import initial_weight
from distfa.core.recipe import Recipe
from distfa.core.serial import Carry, Split
from distfa.data import Dataset
from distfa.errors import BenchError
from distfa.experiment.run import network_for
from distfa.experiment.spec import RunSpec
from distfa.runtime.job import RawInputs, RawTargets


def read(spec: RunSpec) -> Dataset:
    """The data set a spec names.

    Raises:
        DataError: It cannot be read.
    """
    return data.load(spec.data.name, directory=spec.data.dir, limit=spec.data.limit, hub=spec.data.hub)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A spec's recipe and raw data."""

    recipe: Recipe
    inputs: RawInputs
    targets: RawTargets

    @staticmethod
    def of(spec: RunSpec) -> Task:
        """Read the data set and build the network between its inputs and classes.

        Raises:
            BenchError: The data set has no class labels, or the loss is not cross_entropy.
            DataError: The data set cannot be read.
        """
        dataset = read(spec)
        if not dataset.classification or spec.loss != "cross_entropy":
            raise BenchError(
                f"a benchmark trains by cross_entropy on class labels, not by {spec.loss} on {dataset.name!r}; choose "
                "a data set with labels and leave loss out"
            )
        return Task.on(dataset, spec.recipe(network_for(spec, dataset)))

    @staticmethod
    def on(dataset: Dataset, recipe: Recipe) -> Task:
        """A recipe on a data set that is there."""
        return Task(
            recipe=recipe,
            inputs=RawInputs(train=dataset.train_x, test=dataset.test_x, mean=dataset.mean, std=dataset.std),
            targets=RawTargets(train=dataset.train_y, test=dataset.test_y),
        )

    def without_test(self) -> Task:
        """The same, its test set left out."""
        return replace(
            self,
            inputs=replace(self.inputs, test=self.inputs.test[:0]),
            targets=replace(self.targets, test=self.targets.test[:0]),
        )

    def splits(self) -> tuple[Split, Split]:
        """(train, test), to be read row by row."""
        device = torch.device("cpu")
        x, y = self.inputs.readers(self.recipe.dtype, device), self.targets.readers(self.recipe.dtype, device)
        return Split(inputs=x[0], targets=y[0]), Split(inputs=x[1], targets=y[1])


class _Mixed(nn.Sequential):
    """As ``Sequential``, its products in bfloat16 by torch's own autocast."""

    def forward(self, input: Tensor) -> Tensor:
        """What the modules make of the input."""
        with torch.autocast(input.device.type, torch.bfloat16):
            for module in self:
                input = module(input)
        return input


def modules(recipe: Recipe, layers: range) -> nn.Sequential:
    """Some layers of the network as torch modules, starting on the weights distfa would give them.

    In a mixed run they compute by torch's autocast, so that what a stage sends is bfloat16 too.

    Args:
        recipe: What is trained.
        layers: Which layers, counted from 1.
    """
    built: list[nn.Module] = []
    for l in layers:
        shape = recipe.network[l]
        linear = nn.Linear(shape.inputs, shape.outputs, bias=shape.bias, dtype=recipe.dtype)
        with torch.no_grad():
            linear.weight.copy_(initial_weight(recipe, l))
            if shape.bias:
                linear.bias.zero_()
        built.append(linear)
        if shape.activation.name != "identity":
            built.append(shape.activation.module())
    return _Mixed(*built) if recipe.mixed else nn.Sequential(*built)


def torch_optimizer(config: optim.OptimizerConfig, parameters: list[Tensor]) -> torch.optim.Optimizer:
    """torch's own optimizer class, fused, with the settings distfa has."""
    common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
    if config.name == "sgd":
        return torch.optim.SGD(parameters, momentum=config.momentum, nesterov=config.nesterov, **common)
    adam: type[torch.optim.Adam] = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return adam(parameters, betas=config.betas, eps=config.eps, **common)


def set_rate(optimizer: torch.optim.Optimizer, recipe: Recipe, step: int, samples: int) -> None:
    """Set the learning rate of a step, as the recipe's schedule has it for a training set of ``samples`` rows."""
    for group in optimizer.param_groups:
        group["lr"] = optim.rate(recipe.optimizer, step, order.steps(recipe, samples))


def loss_part(output: Tensor, target: Tensor, rows: int) -> Tensor:
    """A micro-batch's share of the mean loss over a batch of ``rows`` rows, so that shares and gradients just add."""
    wide = output.to(torch.promote_types(output.dtype, torch.float32))
    return F.cross_entropy(wide, target, reduction="sum") / rows


def metered(spec: RunSpec, dtype: torch.dtype, sent: list[int]) -> tuple[Carry, Carry]:
    """What receivers see of activations and of errors by a spec's codecs; every payload's bytes go to ``sent``."""

    def carry(name: str) -> Carry:
        codec = codecs.resolve(name, dtype)

        def carried(signal: Tensor) -> Tensor:
            payload, (rows, columns) = codec.encode(signal), signal.shape
            sent.append(payload.nbytes)
            return codec.decode(payload, rows, columns, signal.dtype)

        return carried

    return carry(spec.codec.activations), carry(spec.codec.errors)
