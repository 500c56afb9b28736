"""Turns a run spec and a cluster into what is predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import nn

from distfa.codecs.choice import AUTO
from distfa.core.base.activations import Activation
from distfa.core.base.model import Network, plain_network
from distfa.errors import PlanError
from distfa.intake.stream import with_shortcuts
from distfa.intake.subject import subject_for
from distfa.measuring import random_data
from distfa.measuring.task import Task
from distfa.plan.build import Setting
from distfa.plan.calibration import Calibration
from distfa.plan.cluster import Cluster, place
from distfa.runtime.hosting import assign_layers
from distfa.runtime.job import Job, RawInputs, RawTargets
from distfa.runtime.placement import Node
from distfa.settings import MLP, RunSpec


class Planned:
    """A run that is planned, at one depth or several.

    Args:
        spec: The spec of the run.
        sizes: (features, outputs) of a multi-layer perceptron, so that no data set is read; None to read it.

    Attributes:
        spec: As given.
        modules: The modules of every layer, for a model that is not a multi-layer perceptron.

    Raises:
        PlanError: The codec is ``auto``, there are replicas, or sizes are given for another model.
        DataError: The data set cannot be read.
    """

    def __init__(self, spec: RunSpec, sizes: Sequence[int] | None = None) -> None:
        if AUTO in (spec.codec.activations, spec.codec.errors):
            raise PlanError("codec is 'auto', which is chosen when a run starts; name the codec to plan for")
        if spec.ray.replicas > 1:
            raise PlanError("plan does not predict replicas yet; leave out ray.replicas to plan for one of each layer")
        plain = spec.model.name == MLP
        if sizes is not None and not plain:
            raise PlanError(
                f"--sizes is only for the multi-layer perceptron; the layers of {spec.model.name!r} follow from "
                "the data set: leave it out"
            )
        self.spec = spec
        self._dataset = spec.data.load() if sizes is None else None
        self._ends = (self._dataset.features, self._dataset.outputs) if self._dataset else tuple(sizes or ())
        self._subject = None if plain or self._dataset is None else subject_for(spec, self._dataset)
        self.modules: Mapping[int, nn.Module] = self._subject.modules if self._subject else {}

    def job(self, layers: int | None = None) -> Job:
        """The run.

        Args:
            layers: How many layers: the last hidden width is repeated, or layers are left out; None for as many as it
                has.

        Raises:
            PlanError: There is no hidden width to repeat, or the number of layers follows from the model.
            SpecError: The rule cannot teach these layers.
        """
        return self.spec.job(self._network(layers), run_id="plan", train_rows=self.spec.batch_size, test_rows=0)

    def task(self, spec: RunSpec, network: Network, batches: int) -> Task:
        """The task of a short run by ``spec``: the first samples of the data set, or random ones if none was read."""
        recipe, rows = spec.recipe(network), spec.batch_size * batches
        if self._subject is not None and self._dataset is not None:
            task = Task.on(self._dataset, recipe)
            some = np.arange(rows) % len(task.inputs.train)
            return replace(
                task,
                inputs=replace(task.inputs, train=task.inputs.train[some]),
                targets=replace(task.targets, train=task.targets.train[some]),
                modules=self.modules,
            )
        outputs = network.outputs
        inputs, labels = random_data.make_samples(rows=rows, features=network.sizes[0], classes=outputs, seed=0)
        targets = labels if recipe.loss == "cross_entropy" else np.eye(outputs, dtype=np.float32)[labels]
        return Task(
            recipe=recipe,
            inputs=RawInputs(train=inputs, test=inputs[:0], mean=np.array([127.5]), std=np.array([73.6])),
            targets=RawTargets(train=targets, test=targets[:0]),
        )

    def _network(self, layers: int | None) -> Network:
        if self._subject is not None:
            if layers not in (None, len(self._subject.network)):
                raise PlanError(
                    f"{layers} layers are requested, but {self.spec.model.name!r} has "
                    f"{len(self._subject.network)} of its own; --layers is only for the multi-layer perceptron"
                )
            return self._subject.network
        model = self.spec.model
        hidden = model.hidden
        if layers is not None and layers - 1 != len(hidden):
            if not hidden:
                raise PlanError(
                    f"{layers} layers are requested, but model.hidden is empty: there is no width to repeat"
                )
            hidden = (*hidden, *[hidden[-1]] * layers)[: layers - 1]
        slope = {"slope": model.slope} if model.activation == "leaky_relu" else {}
        activation = Activation(name=model.activation, **slope)
        network = plain_network((self._ends[0], *hidden, self._ends[1]), activation=activation, bias=model.bias)
        return with_shortcuts(network, [None] * len(network), self.spec)


def setting(planned: Planned, cluster: Cluster, layers: int | None) -> Setting:
    """The setting to predict.

    Raises:
        PlanError: The layers do not fit, or the calibration cannot be read.
    """
    spec, job = planned.spec, planned.job(layers)
    calibration = Calibration() if cluster.calibration is None else Calibration.load(Path(cluster.calibration))
    if cluster.calibration is not None and calibration.dtype != spec.dtype:
        raise PlanError(
            f"the calibration {cluster.calibration} is for {calibration.dtype} products, but the run's are "
            f"{spec.dtype}; calibrate with the run's own spec: 'distfa plan SPEC --calibrate FILE'"
        )
    there = [Node(address=str(number), total={"CPU": node.cores}) for number, node in enumerate(cluster.each)]
    job = replace(job, workers=assign_layers(spec.ray, job.recipe, planned.modules, there, "cpu"))
    places = place(cluster, len(job.hosted), spec.ray.placement, spec.ray.resources.cpus)
    nodes = tuple(place for place, layers in zip(places, job.hosted, strict=True) for _ in layers)
    return Setting(job=job, cluster=cluster, nodes=nodes, calibration=calibration, modules=planned.modules)
