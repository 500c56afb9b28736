"""Ready networks, each a plain ``nn.Sequential``: by name for a data set, or a user's own by its path."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import nn

from distfa.errors import SpecError
from distfa.models.dense import ResidualMLPBlock, mlp, residual_mlp
from distfa.models.images import ResidualBlock, convnet, lenet, resnet20
from distfa.models.residual import Head, PreActivationBlock, Shortcut, Start, preact_resnet
from distfa.models.sequences import CausalAttention, TokenEmbedding, TransformerBlock, transformer
from distfa.models.user import load_model
from distfa.text.words import hint

__all__ = [
    "MODELS",
    "OPTIONS",
    "CausalAttention",
    "Head",
    "PreActivationBlock",
    "ResidualBlock",
    "ResidualMLPBlock",
    "Samples",
    "Shortcut",
    "Start",
    "TokenEmbedding",
    "TransformerBlock",
    "build_model",
    "convnet",
    "lenet",
    "load_model",
    "mlp",
    "preact_resnet",
    "residual_mlp",
    "resnet20",
    "transformer",
]


class Samples(Protocol):
    """The facts about a data set that a model needs; every ``distfa.data.Dataset`` provides them."""

    @property
    def name(self) -> str:
        """The name of the data set in messages."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""

    @property
    def outputs(self) -> int:
        """Number of classes, or width of the targets."""

    @property
    def tokens(self) -> int | None:
        """Size of the vocabulary, or None."""

    @property
    def positions(self) -> int:
        """Labels per sample."""


def build_model(name: str, samples: Samples, **options: Any) -> nn.Module:
    """The model of that name for a data set, with torch's own initial weights.

    Args:
        name: A key of ``MODELS``, or ``package.module:function`` for a user's own (see ``load_model``).
        samples: What it will be trained on.
        options: Those of ``OPTIONS`` that differ from the model's own.

    Raises:
        SpecError: An unknown name, or a model that does not read such samples.
        ModelError: The user's function failed, or the samples are too small.
    """
    if ":" in name:
        return load_model(name)
    if name not in MODELS:
        raise SpecError(
            f"model {name!r} is not one of {', '.join(MODELS)}, nor of the form package.module:function"
            f"{hint(name, MODELS)}"
        )
    return MODELS[name](samples, **options)


def _of_quantities(name: str, samples: Samples) -> tuple[tuple[int, ...], int]:
    """(shape, outputs) of samples with one answer each.

    Raises:
        SpecError: They are tokens, or have a label at every position.
    """
    if samples.tokens is not None or samples.positions > 1:
        what = f"tokens from a vocabulary of {samples.tokens}" if samples.tokens is not None else "sequences"
        raise SpecError(
            f"model {name} reads numeric samples with one label each, but {samples.name} has {what} with "
            f"{samples.positions} labels each; choose transformer for tokens, or use your own model"
        )
    return samples.shape, samples.outputs


def _dense(name: str, make: Callable[..., nn.Sequential], samples: Samples, **options: Any) -> nn.Sequential:
    """A network for flat samples, with a Flatten before it if samples are not flat."""
    shape, outputs = _of_quantities(name, samples)
    network = make(math.prod(shape), outputs, **options)
    return network if len(shape) == 1 else nn.Sequential(nn.Flatten(), *network)


def _transformer(samples: Samples, **options: Any) -> nn.Sequential:
    length = samples.shape[0]
    if samples.tokens is None or len(samples.shape) != 1 or samples.positions != length:
        kind = "quantities" if samples.tokens is None else "tokens"
        raise SpecError(
            "model transformer reads tokens (T,) with a label at each of the T positions, as in data set stdlib, "
            f"but {samples.name} has {kind} of shape {samples.shape} with {samples.positions} labels each; choose "
            "another model or data set"
        )
    return transformer(samples.tokens, length, outputs=samples.outputs, **options)


MODELS: Mapping[str, Callable[..., nn.Sequential]] = {
    "mlp": lambda samples: _dense("mlp", mlp, samples),
    "residual_mlp": lambda samples, **options: _dense("residual_mlp", residual_mlp, samples, **options),
    "lenet": lambda samples: lenet(*_of_quantities("lenet", samples)),
    "convnet": lambda samples: convnet(*_of_quantities("convnet", samples)),
    "resnet20": lambda samples: resnet20(*_of_quantities("resnet20", samples)),
    "preact_resnet": lambda samples, **options: preact_resnet(*_of_quantities("preact_resnet", samples), **options),
    "transformer": _transformer,
}

OPTIONS: Mapping[str, tuple[str, ...]] = {
    "depth": ("residual_mlp", "preact_resnet", "transformer"),
    "width": ("residual_mlp", "preact_resnet", "transformer"),
    "start": ("residual_mlp", "preact_resnet", "transformer"),
    "shortcut": ("preact_resnet",),
    "head": ("preact_resnet",),
}
"""Keys of the spec that change a ready network, and the networks that take them."""
