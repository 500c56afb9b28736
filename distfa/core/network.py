"""A network as distfa sees it: a list of layers, and how an ``nn.Sequential`` becomes one.

Layers are numbered 1..L as in theory.md; boundary l lies between layer l and layer l+1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from distfa.core.activations import Activation, from_module
from distfa.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class LayerShape:
    """What one layer actor runs: a Linear module and the activation after it.

    Attributes:
        key: The Linear's name in the model's ``state_dict`` ("0" for "0.weight").
        inputs: d_{l-1}, columns of W_l.
        outputs: d_l, rows of W_l.
        bias: Whether there is a b_l, shape (d_l,).
        activation: phi_l.
    """

    key: str
    inputs: int
    outputs: int
    bias: bool = True
    activation: Activation = Activation()


@dataclass(frozen=True)
class Network:
    """The layers of a network, in order; ``network[l]`` is layer l, counted from 1."""

    layers: tuple[LayerShape, ...]

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, layer: int) -> LayerShape:
        if not 1 <= layer <= len(self.layers):
            raise IndexError(f"layer {layer} is not one of 1..{len(self.layers)}")
        return self.layers[layer - 1]

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """(d_0, d_1, ..., d_L): the width of the input and of every layer."""
        return (self.layers[0].inputs, *(layer.outputs for layer in self.layers))

    @property
    def boundaries(self) -> range:
        """1..L-1: boundary l lies between layers l and l+1."""
        return range(1, len(self.layers))

    def module(self) -> nn.Sequential:
        """A torch model with these layers, its state_dict keys as ``key`` names them.

        Only for networks made by ``mlp``, whose keys number a flat Sequential.
        """
        modules: list[nn.Module] = []
        for layer in self.layers:
            modules.append(nn.Linear(layer.inputs, layer.outputs, bias=layer.bias))
            if layer is not self.layers[-1] or layer.activation.name != "identity":
                modules.append(layer.activation.module())
        return nn.Sequential(*modules)


def mlp(sizes: Sequence[int], *, activation: Activation, bias: bool = True) -> Network:
    """A multi-layer perceptron: Linear and ``activation`` alternate, the last layer gives the logits.

    Args:
        sizes: (d_0, ..., d_L), input width first.
        activation: phi of every hidden layer.
        bias: Whether the layers have biases.
    """
    last = len(sizes) - 2
    return Network(
        tuple(
            LayerShape(
                key=str(2 * i),
                inputs=sizes[i],
                outputs=sizes[i + 1],
                bias=bias,
                activation=Activation() if i == last else activation,
            )
            for i in range(last + 1)
        )
    )


def split(model: nn.Module) -> Network:
    """Split an ``nn.Sequential`` into the layers distfa runs, one actor each.

    A layer is one Linear with the activation after it; a nested Sequential is one layer, so users
    group. A leading ``nn.Flatten()`` is allowed and does nothing: inputs arrive flattened.

    Args:
        model: An ``nn.Sequential`` of Linear and activation modules.

    Returns:
        The network, ``Network.sizes[0]`` being the width of the input.

    Raises:
        ModelError: ``model`` is not a Sequential, holds a module that is not supported, or
            neighbouring layers do not fit; the message names the module.
    """
    if not isinstance(model, nn.Sequential):
        raise ModelError(
            f"the model is a {type(model).__name__}; distfa splits an nn.Sequential into layers: "
            "write the model as nn.Sequential(nn.Linear(...), nn.ReLU(), ...)"
        )
    layers: list[LayerShape] = []
    open_for_activation = False
    for name, module, starts_group in _flatten(model):
        if isinstance(module, nn.Flatten) and not layers and module.start_dim == 1:
            continue
        activation = from_module(module, name)
        if isinstance(module, nn.Linear):
            layers.append(_linear(name, module, layers))
            open_for_activation = True
        elif activation is None:
            raise ModelError(
                f"module {name!r} is a {type(module).__name__}, which distfa does not support yet; "
                "supported are Linear, ReLU, LeakyReLU, Tanh, GELU and Identity"
            )
        elif activation.name == "identity":
            continue
        elif not open_for_activation or starts_group:
            raise ModelError(
                f"module {name!r} is a {type(module).__name__} with no Linear right before it; "
                "a layer is one Linear and at most one activation after it"
            )
        else:
            layers[-1] = _with_activation(layers[-1], activation)
            open_for_activation = False
    if not layers:
        raise ModelError("the model has no Linear module, so there is nothing to train; add at least one")
    return Network(tuple(layers))


def _flatten(model: nn.Sequential) -> Iterator[tuple[str, nn.Module, bool]]:
    """(name, module, opens a group) for every module; a nested Sequential may hold one Linear."""
    for name, module in model.named_children():
        if not isinstance(module, nn.Sequential):
            yield name, module, False
            continue
        linears = [n for n, m in module.named_modules() if isinstance(m, nn.Linear)]
        if len(linears) > 1:
            raise ModelError(
                f"module {name!r} groups {len(linears)} Linear modules into one layer; distfa trains one Linear "
                "per layer so far: take them out of the nested Sequential"
            )
        for i, (inner, part, _) in enumerate(_flatten(module)):
            yield f"{name}.{inner}", part, i == 0


def _linear(name: str, module: nn.Linear, before: Sequence[LayerShape]) -> LayerShape:
    if before and before[-1].outputs != module.in_features:
        raise ModelError(
            f"module {name!r} takes {module.in_features} features but module {before[-1].key!r} before it "
            f"gives {before[-1].outputs}; make them equal"
        )
    return LayerShape(key=name, inputs=module.in_features, outputs=module.out_features, bias=module.bias is not None)


def _with_activation(layer: LayerShape, activation: Activation) -> LayerShape:
    return LayerShape(key=layer.key, inputs=layer.inputs, outputs=layer.outputs, bias=layer.bias, activation=activation)
