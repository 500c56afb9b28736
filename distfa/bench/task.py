"""What every engine of a benchmark is given, from one spec: the same network, weights, samples and order."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distfa import codecs, data
from distfa.core.recipe import Recipe
from distfa.core.samples import Split
from distfa.core.serial import Carry
from distfa.data import Dataset
from distfa.errors import BenchError
from distfa.experiment.spec import RunSpec
from distfa.experiment.subject import network_for, raw_samples
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
        network = network_for(spec, dataset)
        if not network.seeded:
            raise BenchError(
                f"this benchmark trains multi-layer perceptrons, whose peers it knows how to build, not "
                f"{spec.model.name!r}; leave model.name out (distfa bench rules compares rules on any model)"
            )
        return Task.on(dataset, spec.recipe(network))

    @staticmethod
    def on(dataset: Dataset, recipe: Recipe) -> Task:
        """A recipe on a data set that is there."""
        inputs, targets = raw_samples(recipe.network, dataset)
        return Task(recipe=recipe, inputs=inputs, targets=targets)

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
