"""The subject of a run: the model of the spec or of the user, split into layers and compared with them at the end."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distfa import models
from distfa.core import rules
from distfa.core.base import order
from distfa.core.base.activations import Activation
from distfa.core.base.draw import evaluation_seed
from distfa.core.base.dtypes import to_dtype
from distfa.core.base.model import Network, plain_network
from distfa.core.base.recipe import Recipe
from distfa.core.base.seeding import Seeding
from distfa.core.books.records import AuditRecord
from distfa.core.modules.admit import is_sequential, require_dtype
from distfa.core.modules.attributes import copy_module, load_model_state
from distfa.core.modules.split import group, layer_module
from distfa.core.steps import AUDIT
from distfa.data import Dataset
from distfa.data.given_order import Ordered
from distfa.data.stream import Rows
from distfa.errors import LayerError, SpecError
from distfa.intake.from_python import require_from_spec
from distfa.intake.stream import with_shortcuts
from distfa.runtime.job import RawInputs, RawTargets
from distfa.sections.checks import require_equal
from distfa.sections.division import Division
from distfa.sections.split import divide
from distfa.sections.traced import ALL
from distfa.settings import GIVEN, MLP, RunSpec
from distfa.text.words import pluralize

_AUDIT_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}  # room for round-off between one thread and several
_MIXED_TOLERANCE = 0.1


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The network that a run trains.

    Attributes:
        network: Its layers.
        model: The module that the layers come from; None for a multi-layer perceptron that is drawn from the seed.
        division: How its layers are laid over it; None: one for each module of a Sequential that has parameters.
    """

    network: Network
    model: nn.Module | None = None
    division: Division | None = None

    @property
    def modules(self) -> Mapping[int, nn.Module]:
        """The modules of every layer, by its number."""
        if self.model is None:
            return {}
        return dict(enumerate(self._parts(self.model), start=1))

    def _parts(self, model: nn.Module) -> list[nn.Module]:
        """The modules of every layer of the model, or of a copy of it."""
        return (self.division or Division.usual(model)).parts(model)

    def initial_modules(self, init: str) -> Mapping[int, nn.Module]:
        """The modules that the layers of a run start from; empty if they are drawn from the seed.

        Args:
            init: ``RunSpec.init``.
        """
        return {} if self.network.seeded and init != "given" else self.modules

    def start_digest(self, spec: RunSpec) -> str | None:
        """The digest of the weights that a module from Python starts from; None if the spec alone decides them."""
        return self.weights_digest() if spec.model.name == GIVEN and self.initial_modules(spec.init) else None

    def weights_digest(self) -> str | None:
        """The digest of the model's weights; None without a model."""
        if self.model is None:
            return None
        found = hashlib.blake2b(digest_size=16)
        for name, value in self.model.state_dict().items():
            found.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
            found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return found.hexdigest()

    def audit(self, recipe: Recipe, dataset: Dataset, weights: Mapping[str, Tensor], found: AuditRecord | None) -> None:
        """Fail the run if the user's model with the trained weights does not give what the layers give.

        Args:
            recipe: The run's.
            dataset: What it trained on; a few of its samples are looked at.
            weights: The weights at the end of the run, by the model's keys.
            found: The outputs of the layers for these samples; None if they reported none.

        Raises:
            LayerError: They differ by more than round-off, or the layers gave nothing.
        """
        if self.model is None or not recipe.audit_rows:
            return
        if found is None:
            raise LayerError("the run ended without its audit: the outputs of the trained layers were not reported")
        samples, _ = raw_samples(recipe.network, dataset)[0].readers(recipe.dtype, torch.device("cpu"))
        inputs = samples.read(order.audit(recipe, dataset.epoch_rows))
        own = in_dtype(copy_module(self.model, "the model"), recipe.dtype)
        load_model_state(own, weights, strict=self.network.seeded is False)
        if self.division is not None and self.division.plans:
            require_equal(own, self.division, inputs)
        outputs = inputs
        for number, part in enumerate(self._parts(own.eval()), start=1):
            seed = evaluation_seed(recipe.seed, number, AUDIT)
            with Seeding(part).drawing_from(seed), torch.no_grad():
                outputs = part(outputs)
        outputs = outputs.flatten().double()
        layers = torch.tensor(found.outputs, dtype=torch.float64)
        scale = layers.abs().max().clamp_min(1.0)
        tolerance = _MIXED_TOLERANCE if recipe.mixed else _AUDIT_TOLERANCE[recipe.dtype]
        if not recipe.check_finite and not bool(torch.isfinite(layers).all()):
            return  # the run went on with NaN or infinity, as it was told to, and those cannot be compared
        if outputs.shape != layers.shape or not bool(((outputs - layers).abs() <= tolerance * scale).all()):
            apart = (outputs - layers).abs().max().item() if outputs.shape == layers.shape else float("nan")
            raise LayerError(
                "the model with the trained weights does not compute what the layers of the run compute: they "
                f"differ by {apart:.3g} on {found.rows} samples, where round-off is below "
                f"{tolerance * float(scale):.1g}. Its forward pass does something that its modules in sequence do "
                "not do; do not trust the weights for this model"
            )


def network_for(spec: RunSpec, dataset: Dataset) -> Network:
    """The layers of the spec's model for a data set."""
    return subject_for(spec, dataset).network


def subject_for(spec: RunSpec, dataset: Dataset) -> Subject:
    """The subject of a spec on a data set: the multi-layer perceptron, a ready network, or that of a user's function.

    Raises:
        SpecError: There is no model of that name, or the spec is of a run from Python.
        ModelError: It cannot be split into layers.
    """
    if spec.model.name == MLP:
        if spec.optimizer.groups is not None:
            raise SpecError(
                f"optimizer.groups names parameters of a model, but all of {MLP}'s are trained alike; leave it "
                "out, or use your own model (model.name=package.module:function)"
            )
        if spec.model.layers != ALL:
            raise SpecError(f"model.layers is for models with modules, but {MLP} has a layer for each of model.hidden")
        slope = {"slope": spec.model.slope} if spec.model.activation == "leaky_relu" else {}
        activation = Activation(name=spec.model.activation, **slope)
        sizes = (dataset.features, *spec.model.hidden, dataset.outputs)
        network = plain_network(sizes, activation=activation, bias=spec.model.bias)
        return Subject(network=with_shortcuts(network, [None] * len(network), spec))
    require_from_spec(spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        model = models.build_model(spec.model.name, dataset, **spec.model.options)
    return subject_of(to_dtype(model, _dtype(spec)), spec, dataset)


def subject_of(model: nn.Module, spec: RunSpec, dataset: Dataset) -> Subject:
    """A user's model on a data set.

    Raises:
        ModelError: It cannot be split into layers, or its numbers are not of the run's type.
    """
    with _only_the_optimizers(model, spec):
        network, division = divide(
            model,
            dataset.shape,
            layers=spec.model.layers,
            tokens=dataset.tokens is not None,
            head=rules.RULES[spec.rule].follows_shortcuts,
        )
        network = with_shortcuts(network, division.parts(model), spec)
    require_dtype(model, _dtype(spec))
    return Subject(network=network, model=model, division=division)


def in_dtype(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model with the numbers of every layer as that layer trains them, in the run's dtype."""
    for part in [layer_module(each) for each in group(model)] if is_sequential(model) else [model]:
        to_dtype(part, dtype)
    return model


@contextmanager
def _only_the_optimizers(model: nn.Module, spec: RunSpec) -> Iterator[None]:
    """Let only parameters that the optimizer has require a gradient within the block, so that the others stay.

    Raises:
        SpecError: The optimizer has one that the model has not.
    """
    keys = {key for group in spec.optimizer.groups or () for key in group.parameters}
    named = dict(model.named_parameters())
    if strange := sorted(keys - named.keys()):
        raise SpecError(f"optimizer.groups names the parameter {strange[0]!r}, which the model does not have")
    left_out = [p for key, p in named.items() if p.requires_grad and key not in keys] if spec.optimizer.groups else []
    for parameter in left_out:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in left_out:
            parameter.requires_grad_(True)


def _dtype(spec: RunSpec) -> torch.dtype:
    return torch.float64 if spec.dtype == "float64" else torch.float32


def raw_samples(network: Network, dataset: Dataset) -> tuple[RawInputs, RawTargets]:
    """The data set as layers read it, in the shape that the network takes, in the order of its loader."""
    x: Any = dataset.train_x
    y: Any = dataset.train_y
    if dataset.order is not None:
        x = x if isinstance(x, Rows) else Ordered(x, dataset.order)
        y = Ordered(y, dataset.order)
    inputs = RawInputs(
        train=x,
        test=dataset.test_x,
        mean=dataset.mean,
        std=dataset.std,
        shape=network.shapes[0],
        tokens=network.tokens,
    )
    return inputs, RawTargets(train=y, test=dataset.test_y)


def model_in_words(spec: RunSpec, network: Network) -> str:
    """The model in words: the sizes of plain layers, or the name of the model and its number of layers."""
    if network.seeded:
        return "-".join(map(str, network.sizes))
    name = "your model" if spec.model.name == GIVEN else spec.model.name
    return f"{name} in {pluralize(len(network), 'layer')}"
