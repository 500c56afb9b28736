"""How modules become layers: those of an ``nn.Sequential`` are grouped, and each layer is tried on a few samples.

A module with parameters opens a layer; a normalisation after it joins it, and so do modules without parameters. A
nested Sequential is one layer, and so is any other module with parameters, so users can group as they like.
"""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from distfa.core.base.activations import Activation, from_module
from distfa.core.base.model import LayerSpec, Network, Shape, Weight, plain_layer
from distfa.core.modules.admit import Group
from distfa.core.modules.attributes import copy_module, require_own_state
from distfa.core.modules.elementwise import z_of
from distfa.core.modules.parameters import JOINING, scaling_parameters, weights_of
from distfa.core.modules.section import Section
from distfa.core.modules.trial import try_module
from distfa.errors import ModelError

_FIXED = (
    nn.Identity,
    nn.Flatten,
    nn.Unflatten,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.ZeroPad1d,
    nn.ZeroPad2d,
)  # the same linear map for every input
_RESHAPING = (*_FIXED, nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d)
_HOMOGENEOUS = (*_RESHAPING, nn.ReLU, nn.LeakyReLU, nn.Dropout, nn.Dropout1d, nn.Dropout2d)
_KEEPING_ZEROS = (nn.Identity, nn.Flatten, nn.Unflatten, nn.MaxPool1d, nn.MaxPool2d, nn.Dropout)
_PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # bilinear in weight and input, outputs first


def describe_layers(parts: Sequence[nn.Module], sample: Shape, *, tokens: bool = False) -> Network:
    """The layers that these modules are, one after another.

    Args:
        parts: The modules of every layer: a ``Section``, or a Sequential with some modules of the model.
        sample: Shape of one sample.
        tokens: Whether inputs are integer tokens, for an Embedding.

    Raises:
        ModelError: They cannot be trained as they are; the message names the module and the way out.
    """
    layers: list[LayerSpec] = []
    changed: dict[int, frozenset[str]] = {}
    shape, key_before = sample, ""
    first = _plain(parts[0], None)
    along = first is not None and len(sample) > 1 and sample[-1] == first.inputs
    for part in parts:
        spec = _plain(part, shape if layers or along else None, key_before)
        if spec is None:
            number = len(layers) + 1
            spec, changed[number] = _try_layer(part, number, shape, tokens=tokens and not layers)
        if not spec.outputs:
            kinds = ", ".join(f"{name} {kind}" for name, kind in spec.modules)
            raise ModelError(
                f"layer {len(layers) + 1} ({kinds}) returns empty samples, of shape {spec.output_shape}, so that "
                "nothing reaches the next layer; give it at least one output, or remove it"
            )
        layers.append(spec)
        shape, key_before = spec.output_shape, spec.key
    require_own_state(dict(enumerate(parts, start=1)), changed)
    if not any(layer.trained for layer in layers):
        raise ModelError(
            "every parameter of the model is frozen, so there is nothing to train; set requires_grad on some"
        )
    if len(layers) > 1 and not layers[-1].plain and not isinstance(parts[-1], Section):
        last = copy_module(parts[-1], "the last layer")
        layers[-1] = replace(layers[-1], z_of=z_of(last, leaves(children(last)), layers[-1].input_shape))
    if not shape:
        raise ModelError("the last layer returns one number per sample without an axis; return shape (1,) or more")
    return Network(tuple(layers), tokens=tokens)


def sample_shape(first: nn.Module, sample: Sequence[int] | None) -> Shape:
    """The shape in which the first layer of a Sequential takes a sample.

    Args:
        first: The modules of that layer.
        sample: The shape that was given; None if the layer must say it.

    Raises:
        ModelError: It does not.
    """
    plain = _plain(first, None)
    if plain is not None and (sample is None or math.prod(sample) == plain.inputs):
        return plain.input_shape  # a leading Flatten, or images for a Linear: inputs come flat
    if sample is not None:
        return tuple(sample)
    group = children(first)
    if isinstance(opening := leaves(group)[0][1], nn.Linear):
        return (opening.in_features,)
    raise ModelError(
        f"the first module, {group[0][0]!r}, does not determine the shape of a sample; pass it: "
        "distfa.split(model, (3, 32, 32))"
    )


def group(model: nn.Module, *, head: bool = False) -> list[Group]:
    """The modules of every layer of a Sequential, with their names in it.

    Args:
        model: The Sequential.
        head: Whether a norm, an activation and the like before the last layer belong to it, so that the stream of a
            residual network ends with its last block; else they belong to the layer before.

    Raises:
        ModelError: No module has parameters.
    """
    groups: list[Group] = [[]]
    opened = False
    for name, module in children(model):
        opens = any(True for _ in module.parameters()) and not isinstance(module, JOINING)
        if opens and opened:
            groups.append([])
        groups[-1].append((name, module))
        opened = opened or opens
    if not any(True for _ in model.parameters()):
        raise ModelError("the model has no module with parameters, so there is nothing to train; add at least one")
    if head and len(groups) > 1:
        groups[-2:] = _with_head(*groups[-2:])
    return groups


def _with_head(below: Group, last: Group) -> tuple[Group, Group]:
    """The last two groups, with what comes after the stream in the last one."""
    opening = next(
        i for i, (_, m) in enumerate(below) if any(True for _ in m.parameters()) and not isinstance(m, JOINING)
    )
    after = itertools.dropwhile(lambda pair: type(pair[1]) in _FIXED, below[opening + 1 :])
    head = [*after]
    return below[: len(below) - len(head)], head + last


def children(model: nn.Module) -> Group:
    """Its modules in the order of its forward; ``named_children`` would leave out a module that comes a second time."""
    return [(name, module) for name, module in model._modules.items() if module is not None]


def layer_module(group: Group) -> nn.Sequential:
    """One layer as a module whose state_dict has the keys of the model; it holds the model's modules, not copies."""
    return nn.Sequential(OrderedDict(group))


def leaves(group: Group) -> list[tuple[str, nn.Module]]:
    """Its modules one after another; a nested Sequential is replaced by its own modules."""
    found: list[tuple[str, nn.Module]] = []
    for name, module in group:
        if type(module) is nn.Sequential:
            found += leaves([(f"{name}.{inner}", part) for inner, part in children(module)])
        else:
            found.append((name, module))
    return found


def _plain(part: nn.Module, shape: Shape | None, before: str = "") -> LayerSpec | None:
    """The layer if it is one Linear and at most one known activation, on flat samples; else None.

    Args:
        part: Its modules.
        shape: Shape of its input; None for the first layer, whose input may be flattened.
        before: Key of the layer before it, for messages.
    """
    if isinstance(part, Section):
        return None
    parts = [(name, module) for name, module in leaves(children(part)) if type(module) is not nn.Identity]
    if shape is None and parts and type(parts[0][1]) is nn.Flatten and parts[0][1].start_dim == 1:
        parts = parts[1:]
    if not parts or len(parts) > 2:
        return None
    (key, linear), rest = parts[0], parts[1:]
    if not isinstance(linear, nn.Linear) or type(linear) is not nn.Linear:  # a subclass may compute something else
        return None
    activation = from_module(rest[0][1]) if rest else Activation()
    if activation is None or not _trains_all(linear, part):
        return None
    if shape is not None and len(shape) != 1:
        return None
    if shape is not None and shape[0] != linear.in_features:
        raise ModelError(
            f"module {key!r} takes {linear.in_features} features, but module {before!r} before it returns "
            f"{shape[0]}; make them equal"
        )
    return plain_layer(
        key,
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        activation=activation,
        modules=_kinds(part),
    )


def _trains_all(linear: nn.Linear, module: nn.Module) -> bool:
    """Whether the Linear's weight and bias are parameters, all trained, and the layer has no other numbers."""
    own = [p for p in (linear.weight, linear.bias) if p is not None]
    trained = all(isinstance(p, nn.Parameter) and p.requires_grad for p in own)
    return trained and len([*module.parameters()]) == len(own) and not [*module.buffers()]


def _kinds(part: nn.Module) -> tuple[tuple[str, str], ...]:
    if isinstance(part, Section):
        return part.plan.parts
    return tuple((name, type(module).__name__) for name, module in children(part))


def _try_layer(part: nn.Module, number: int, shape: Shape, *, tokens: bool) -> tuple[LayerSpec, frozenset[str]]:
    """The description of the layer and the attributes that change, from a trial on samples of this shape."""
    where = f"layer {number} ({', '.join(f'{name} {kind}' for name, kind in _kinds(part))})"
    module = copy_module(part, where)
    parameters = dict(module.named_parameters())
    trained = tuple(name for name, p in parameters.items() if p.requires_grad)
    weights = {name: Weight(name=name, shape=tuple(p.shape)) for name, p in weights_of(module)}
    trial = try_module(module, where, shape, tokens=tokens)
    unreached, read = trial.remade | (trial.used - trial.met), trial.met | trial.remade
    parts = part.leaves() if isinstance(part, Section) else leaves(children(part))
    last = next((a for _, m in reversed(parts) if (a := from_module(m)) is not None and a.name != "identity"), None)
    spec = LayerSpec(
        key=_key(part, parts),
        modules=_kinds(part),
        input_shape=shape,
        output_shape=trial.output_shape,
        parameters=sum(p.numel() for p in parameters.values()),
        trainable=sum(parameters[name].numel() for name in trained),
        trained=trained,
        activation=last or Activation(),
        weights=tuple(weights.values()),
        unreached=() if tokens else tuple(name for name in weights if name in unreached),
        transported=tuple(name for name in parameters if name in read - weights.keys() - scaling_parameters(module)),
        moving=tuple(sorted(trial.moving)),
        rectified=_ends_rectified([module for _, module in parts]),
    )
    return _add_law(parts, spec), trial.changed


def _key(part: nn.Module, parts: Group) -> str:
    """The name of its first module with parameters."""
    if isinstance(part, Section):
        return part.plan.key
    return next(name for name, m in (parts or children(part)) if any(True for _ in m.parameters()))


def _ends_rectified(parts: Sequence[nn.Module]) -> bool:
    """Whether a ReLU comes last; after it only modules that give 0 only where all numbers they read are 0."""
    behind = itertools.dropwhile(lambda module: type(module) in _KEEPING_ZEROS, reversed(parts))
    return isinstance(next(behind, None), nn.ReLU)


def _add_law(parts: Sequence[tuple[str, nn.Module]], spec: LayerSpec) -> LayerSpec:
    """The layer with ``lawful``, ``neurons`` and ``linear_in`` set, where one Linear or Conv is among known modules."""
    at = [i for i, (_, module) in enumerate(parts) if type(module) in _PRODUCTS]
    if len(at) != 1 or len(spec.weights) != 1 or not all(type(m) in _RESHAPING for _, m in parts[: at[0]]):
        return spec
    name, product = parts[at[0]]
    own = {f"{name}.{inner}" for inner in ("weight", "bias") if getattr(product, inner) is not None}
    lawful = own == set(spec.trained) and all(type(m) in _HOMOGENEOUS for _, m in parts[at[0] + 1 :])
    chain = all(type(m).__module__.startswith("torch.nn.") for _, m in parts)
    neurons = spec.weights[0].rows if lawful and _lie_apart(product, parts[at[0] + 1 :], spec) else 1
    held = not spec.unreached and spec.weights[0].name in spec.trained  # a frozen weight has no update to enter
    return replace(spec, lawful=lawful, neurons=neurons, linear_in=chain and held)


def _lie_apart(product: nn.Module, after: Sequence[tuple[str, nn.Module]], spec: LayerSpec) -> bool:
    """Whether the numbers of h_l lie neuron after neuron, or channel after channel."""
    rows, shape = spec.weights[0].rows, spec.output_shape
    if isinstance(product, nn.Linear):
        return shape == (rows,)
    kinds = [type(module) for _, module in after if type(module) in _RESHAPING]
    flat = nn.Flatten in kinds and kinds.index(nn.Flatten) == len(kinds) - 1 and spec.outputs % rows == 0
    return shape[0] == rows or flat
