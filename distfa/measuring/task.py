"""The task that every engine of a benchmark gets from one spec: the same network, weights, samples and order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import torch
from torch import Tensor, nn

from distfa import codecs
from distfa.core.base.recipe import Recipe
from distfa.core.base.samples import Split
from distfa.core.serial import Carry, SerialTrainer, carry_unchanged
from distfa.data import Dataset
from distfa.errors import BenchError
from distfa.intake.subject import raw_samples, subject_for
from distfa.runtime.job import RawInputs, RawTargets
from distfa.settings import RunSpec


@dataclass(frozen=True, kw_only=True)
class Task:
    """The recipe and raw data of a spec, and the modules its layers start from; none if drawn from the seed."""

    recipe: Recipe
    inputs: RawInputs
    targets: RawTargets
    modules: Mapping[int, nn.Module] = field(default_factory=dict)

    @staticmethod
    def of(spec: RunSpec, dataset: Dataset | None = None) -> Task:
        """Build the network between a data set's inputs and classes.

        Args:
            spec: The spec of the run.
            dataset: The data set that it names, if that has been read already.

        Raises:
            BenchError: The data set has no class labels, or the loss is not cross_entropy.
            DataError: The data set cannot be read.
        """
        dataset = spec.data.load() if dataset is None else dataset
        if not dataset.classification or spec.loss != "cross_entropy":
            raise BenchError(
                f"a benchmark trains with cross_entropy on class labels, not with {spec.loss} on "
                f"{dataset.name!r}; choose a data set with labels and leave loss out"
            )
        subject = subject_for(spec, dataset)
        return Task.on(dataset, spec.recipe(subject.network), subject.initial_modules(spec.init))

    @staticmethod
    def on(dataset: Dataset, recipe: Recipe, modules: Mapping[int, nn.Module] = MappingProxyType({})) -> Task:
        """The task of a recipe on a given data set."""
        inputs, targets = raw_samples(recipe.network, dataset)
        return Task(recipe=recipe, inputs=inputs, targets=targets, modules=modules)

    def without_test(self) -> Task:
        """The same task without its test set."""
        return replace(
            self,
            inputs=replace(self.inputs, test=self.inputs.test[:0]),
            targets=replace(self.targets, test=self.targets.test[:0]),
        )

    def splits(self) -> tuple[Split, Split]:
        """The splits (train, test), to be read row by row."""
        device = torch.device("cpu")
        x, y = self.inputs.readers(self.recipe.dtype, device), self.targets.readers(self.recipe.dtype, device)
        return Split(inputs=x[0], targets=y[0]), Split(inputs=x[1], targets=y[1])

    def trainer(
        self, up: Carry = carry_unchanged, down: Carry = carry_unchanged, exact: Carry = carry_unchanged
    ) -> SerialTrainer:
        """The serial engine on this task, with what carries activations, errors, and signals that no codec rounds."""
        return SerialTrainer(
            self.recipe, *self.splits(), carry_activation=up, carry_error=down, carry_exact=exact, modules=self.modules
        )

    @property
    def answers_per_sample(self) -> int:
        """How many answers the network gives for one sample: several if it answers at every position of a sequence."""
        return math.prod(self.recipe.network.positions)


def meter(spec: RunSpec, dtype: torch.dtype, sent: list[int]) -> tuple[Carry, Carry, Carry]:
    """The wire for ``Task.trainer`` with the codecs of a spec; ``sent`` gets the bytes of every payload."""

    def carry(name: str) -> Carry:
        codec = codecs.resolve(name, dtype)

        def carried(signal: Tensor) -> Tensor:
            payload, (rows, columns) = codec.encode(signal), signal.shape
            sent.append(payload.nbytes)
            return codec.decode(payload, rows, columns, signal.dtype)

        return carried

    def exact(signal: Tensor) -> Tensor:
        sent.append(signal.nbytes)
        return signal

    return carry(spec.codec.activations), carry(spec.codec.errors), exact
