"""A network as distfa sees it: its layers, what they consist of, and the shapes of the signals between them.

Layers are numbered 1..L as in theory.md; boundary l lies between layer l and layer l+1. This is only a description. It
travels to every layer of a run, while each module travels only to its own layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import nn

from distfa.core.base.activations import Activation

NO_RULE = "one layer: no rule applies"
ONE_LAYER = f"{NO_RULE}; training it is plain backpropagation"
SEVERAL_LAYERS = (
    "put its parts into the nn.Sequential as separate modules: each module with parameters there becomes a layer"
)
Shape = tuple[int, ...]
"""Of one sample, without the axis of samples."""


@dataclass(frozen=True, kw_only=True)
class Weight:
    """The weight of one Linear or Conv in a layer, whose place feedback takes in the backward pass.

    Attributes:
        name: In the model's ``state_dict``.
        shape: Outputs (or output channels) first.
    """

    name: str
    shape: Shape

    @property
    def rows(self) -> int:
        """Outputs: neurons, or channels."""
        return self.shape[0]

    @property
    def columns(self) -> int:
        """Numbers in a row: inputs, or input channels times the kernel."""
        return math.prod(self.shape[1:])


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """The part of the network that one layer actor runs.

    Attributes:
        key: The name of its first module with parameters; a Linear's parameters are ``key.weight`` and ``key.bias``.
        modules: (name in the model, kind) of its modules, in order.
        input_shape: Of one sample of h_{l-1}.
        output_shape: Of one sample of h_l.
        parameters: Numbers in its parameters.
        trainable: How many of those are trained.
        activation: phi_l of a plain layer; of any other layer its last activation, if distfa knows it.
        plain: Whether it is one Linear, all of it trained, and at most one known activation: the fast path.
        bias: Whether a plain layer has one.
        trained: Names of its trained parameters: not frozen, and used.
        weights: The weights of its Linears, Convs and attentions.
        unreached: Those of them that nothing can replace in the backward pass, since the module derives another tensor
            from them.
        transported: Names of its other parameters that mix numbers in the backward pass (those of an LSTM, a bare
            matrix): nothing replaces them. Normalisations and scales do not mix numbers and are not among them.
        random: Whether its forward pass draws random numbers in training (dropout).
        lawful: Whether the conservation law holds for it: its trained parameters are those of one Linear or Conv, and
            all that follows is homogeneous of degree 1.
        neurons: The number of outputs or output channels of a lawful layer; else 1, for the layer as a whole.
        moving: Names of its frozen parameters that its own forward changes.
        rectified: Whether an entry of h_l that is 0 lets no error through, because a ReLU produced it.
        linear_in: Whether only reshaping and pooling come before its only weight, so that the layer below finds its
            potential in that weight.
        z_of: Of a last layer that is not plain: the Linear or Conv that gives z_L, from which direct rules send their
            error; empty if they send dLoss/d(output) (``distfa.core.modules.elementwise``).
        cost: Counted operations of its forward for one sample, where layers were made of nearly equal cost or cut out
            of a traced model; else 0.
    """

    key: str
    modules: tuple[tuple[str, str], ...]
    input_shape: Shape
    output_shape: Shape
    parameters: int
    trainable: int
    activation: Activation = Activation()
    plain: bool = False
    bias: bool = True
    trained: tuple[str, ...] = ()
    weights: tuple[Weight, ...] = ()
    unreached: tuple[str, ...] = ()
    transported: tuple[str, ...] = ()
    random: bool = False
    moving: tuple[str, ...] = ()
    lawful: bool = False
    neurons: int = 1
    rectified: bool = False
    linear_in: bool = False
    z_of: str = ""
    cost: int = field(default=0, repr=False, compare=False)  # what follows from the rest is in no digest

    @property
    def activation_known(self) -> bool:
        """Whether ``activation`` is what the layer ends with; False where distfa does not know that."""
        return self.plain or self.activation.name != "identity"

    @property
    def inputs(self) -> int:
        """Numbers in one sample of h_{l-1}: d_{l-1}."""
        return math.prod(self.input_shape)

    @property
    def outputs(self) -> int:
        """Numbers in one sample of h_l: d_l."""
        return math.prod(self.output_shape)


@dataclass(frozen=True)
class Network:
    """The layers of a network, in order; ``network[l]`` is layer l, counted from 1.

    Attributes:
        layers: Layer 1 first.
        tokens: Whether the first layer takes integer tokens.
        continued: Whether training continues from weights that were trained before, which cannot be drawn from a seed.
        paths: By layer, the path from the top of the stream down to it, for a rule that follows shortcuts
            (``distfa.core.base.shortcuts``).
    """

    layers: tuple[LayerSpec, ...]
    tokens: bool = False
    continued: bool = False
    paths: Mapping[int, Any] = field(default_factory=dict, repr=False, compare=False)  # follow from the modules

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, layer: int) -> LayerSpec:
        if not 1 <= layer <= len(self.layers):
            raise IndexError(f"there is no layer {layer}; layers are numbered 1..{len(self.layers)}")
        return self.layers[layer - 1]

    @cached_property
    def seeded(self) -> bool:
        """Whether every layer is plain: then W(0) is drawn from the run's seed.

        So any end of the wire can draw any matrix alone. Other networks start from the modules that were given.
        """
        return not self.continued and all(layer.plain for layer in self.layers)

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """The shapes of one sample of the input and of every layer's output."""
        return (self.layers[0].input_shape, *(layer.output_shape for layer in self.layers))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """(d_0, d_1, ..., d_L): numbers in one sample of the input and of every layer's output."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def outputs(self) -> int:
        """C: classes, or columns of the targets: the last axis of the output."""
        return self.shapes[-1][-1]

    @property
    def positions(self) -> Shape:
        """Axes of the output before the classes: (T,) for a sequence with an answer at every position, else ()."""
        return self.shapes[-1][:-1]

    @property
    def boundaries(self) -> range:
        """1..L-1: boundary l lies between layers l and l+1."""
        return range(1, len(self.layers))

    def module(self) -> nn.Sequential:
        """A torch model with these layers, its state_dict keys as ``key`` names them.

        Only for networks made by ``plain_network``, whose keys number a flat Sequential.
        """
        modules: list[nn.Module] = []
        for layer in self.layers:
            modules.append(nn.Linear(layer.inputs, layer.outputs, bias=layer.bias))
            if layer is not self.layers[-1] or layer.activation.name != "identity":
                modules.append(layer.activation.module())
        return nn.Sequential(*modules)

    def __str__(self) -> str:
        """The table of layers."""
        costs = [layer.cost for layer in self.layers]
        header = ["layer", "modules", "parameters", "in", "out", "bytes up per sample"]
        header += ["operations per sample"] if any(costs) else []
        last = len(self.layers)
        rows = [
            (
                str(number),
                ", ".join(f"{name} {kind}" for name, kind in layer.modules),
                f"{layer.parameters:,}"
                + ("" if layer.trainable == layer.parameters else f" ({layer.trainable:,} trained)"),
                _shape(layer.input_shape),
                _shape(layer.output_shape),
                f"{4 * layer.outputs:,}" if number < last else "-",
                *([f"{layer.cost:,}"] if any(costs) else []),
            )
            for number, layer in enumerate(self.layers, start=1)
        ]
        widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (header, *rows)
        ]
        if last == 1:
            lines += ["", f"{ONE_LAYER}; {SEVERAL_LAYERS}"]
        return "\n".join(line.rstrip() for line in lines)


def _shape(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "1"


def plain_layer(
    key: str, inputs: int, outputs: int, *, bias: bool, activation: Activation, modules: tuple[tuple[str, str], ...]
) -> LayerSpec:
    """A Linear and its activation.

    Args:
        key: The Linear's name in the model.
        inputs: d_{l-1}.
        outputs: d_l.
        bias: Whether there is a b_l.
        activation: phi_l.
        modules: As ``LayerSpec.modules``.
    """
    parameters = outputs * (inputs + (1 if bias else 0))
    return LayerSpec(
        key=key,
        modules=modules,
        input_shape=(inputs,),
        output_shape=(outputs,),
        parameters=parameters,
        trainable=parameters,
        activation=activation,
        plain=True,
        bias=bias,
        trained=(f"{key}.weight", f"{key}.bias") if bias else (f"{key}.weight",),
        weights=(Weight(name=f"{key}.weight", shape=(outputs, inputs)),),
        lawful=activation.homogeneous,
        neurons=outputs,
        rectified=activation.name == "relu",
        linear_in=True,
    )


def plain_network(sizes: Sequence[int], *, activation: Activation, bias: bool = True) -> Network:
    """A multi-layer perceptron: Linear and ``activation`` alternate, the last layer gives the logits.

    Args:
        sizes: (d_0, ..., d_L), input width first.
        activation: phi of every hidden layer.
        bias: Whether the layers have biases.
    """
    last = len(sizes) - 2
    layers = []
    for i in range(last + 1):
        phi = Activation() if i == last else activation
        modules = [(str(2 * i), "Linear")]
        if i < last:
            modules.append((str(2 * i + 1), type(phi.module()).__name__))
        layers.append(
            plain_layer(str(2 * i), sizes[i], sizes[i + 1], bias=bias, activation=phi, modules=tuple(modules))
        )
    return Network(tuple(layers))
