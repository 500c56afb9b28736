"""How an ``nn.Sequential`` becomes layers: its modules are grouped, and each group is tried on a few samples.

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
from distfa.core.modules.admit import Group, admit, require_sequential
from distfa.core.modules.attributes import copy_module, require_own_state
from distfa.core.modules.elementwise import z_of
from distfa.core.modules.parameters import JOINING, scaling_parameters, weights_of
from distfa.core.modules.trial import try_module
from distfa.errors import ModelError

_RESHAPING = (
    nn.Identity,
    nn.Flatten,
    nn.Unflatten,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.ZeroPad1d,
    nn.ZeroPad2d,
)
_HOMOGENEOUS = (*_RESHAPING, nn.ReLU, nn.LeakyReLU, nn.Dropout, nn.Dropout1d, nn.Dropout2d)
_KEEPING_ZEROS = (nn.Identity, nn.Flatten, nn.Unflatten, nn.MaxPool1d, nn.MaxPool2d, nn.Dropout)
_PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # bilinear in weight and input, outputs first


def split(model: nn.Module, sample: Sequence[int] | None = None, *, tokens: bool = False) -> Network:
    """Split an ``nn.Sequential`` into the layers distfa runs, one actor each; ``print`` it as a table.

    Args:
        model: An ``nn.Sequential`` of any modules.
        sample: Shape of one sample, such as (3, 32, 32); may be left out where the first module is a Linear.
        tokens: Whether inputs are integer tokens, for an Embedding.

    Raises:
        ModelError: It cannot be trained as it is; the message names the module and the way out.
    """
    sequential = require_sequential(model)
    groups = group(sequential)
    admit(sequential, groups)
    first = _plain(groups[0], None)
    if first is not None and (sample is None or math.prod(sample) == first.inputs):
        sample = first.input_shape  # a leading Flatten, or images for a Linear: inputs come flat
    elif sample is None and isinstance(opening := leaves(groups[0])[0][1], nn.Linear):
        sample = (opening.in_features,)
    along = first is not None and sample is not None and len(sample) > 1 and sample[-1] == first.inputs
    if sample is None:
        raise ModelError(
            f"the first module, {groups[0][0][0]!r}, does not determine the shape of a sample; pass it: "
            "distfa.split(model, (3, 32, 32))"
        )
    layers: list[LayerSpec] = []
    changed: dict[int, frozenset[str]] = {}
    shape, key_before = tuple(sample), ""
    for modules in groups:
        spec = _plain(modules, shape if layers or along else None, key_before)
        if spec is None:
            number = len(layers) + 1
            spec, changed[number] = _try_layer(modules, number, shape, tokens=tokens and not layers)
        if not spec.outputs:
            kinds = ", ".join(f"{name} {kind}" for name, kind in spec.modules)
            raise ModelError(
                f"layer {len(layers) + 1} ({kinds}) returns empty samples, of shape {spec.output_shape}, so that "
                "nothing reaches the next layer; give it at least one output, or remove it"
            )
        layers.append(spec)
        shape, key_before = spec.output_shape, spec.key
    require_own_state(dict(enumerate(map(layer_module, groups), start=1)), changed)
    if not any(layer.trained for layer in layers):
        raise ModelError(
            "every parameter of the model is frozen, so there is nothing to train; set requires_grad on some"
        )
    if len(layers) > 1 and not layers[-1].plain:
        last = copy_module(layer_module(groups[-1]), "the last layer")
        layers[-1] = replace(layers[-1], z_of=z_of(last, leaves([*last.named_children()]), layers[-1].input_shape))
    if not shape:
        raise ModelError("the last layer returns one number per sample without an axis; return shape (1,) or more")
    return Network(tuple(layers), tokens=tokens)


def group(model: nn.Sequential) -> list[Group]:
    """The modules of every layer, with their names in the model.

    Raises:
        ModelError: No module has parameters.
    """
    groups: list[Group] = [[]]
    opened = False
    for name, module in _children(model):
        opens = any(True for _ in module.parameters()) and not isinstance(module, JOINING)
        if opens and opened:
            groups.append([])
        groups[-1].append((name, module))
        opened = opened or opens
    if not any(True for _ in model.parameters()):
        raise ModelError("the model has no module with parameters, so there is nothing to train; add at least one")
    return groups


def _children(model: nn.Sequential) -> list[tuple[str, nn.Module]]:
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
            found += leaves([(f"{name}.{inner}", part) for inner, part in _children(module)])
        else:
            found.append((name, module))
    return found


def _plain(group: Group, shape: Shape | None, before: str = "") -> LayerSpec | None:
    """The layer if it is one Linear and at most one known activation, on flat samples; else None.

    Args:
        group: Its modules.
        shape: Shape of its input; None for the first layer, whose input may be flattened.
        before: Key of the layer before it, for messages.
    """
    parts = [(name, module) for name, module in leaves(group) if type(module) is not nn.Identity]
    if shape is None and parts and type(parts[0][1]) is nn.Flatten and parts[0][1].start_dim == 1:
        parts = parts[1:]
    if not parts or len(parts) > 2:
        return None
    (key, linear), rest = parts[0], parts[1:]
    if not isinstance(linear, nn.Linear) or type(linear) is not nn.Linear:  # a subclass may compute something else
        return None
    activation = from_module(rest[0][1]) if rest else Activation()
    if activation is None or not _trains_all(linear, group):
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
        modules=_kinds(group),
    )


def _trains_all(linear: nn.Linear, group: Group) -> bool:
    """Whether the Linear's weight and bias are parameters, all trained, and the layer has no other numbers."""
    module, own = layer_module(group), [p for p in (linear.weight, linear.bias) if p is not None]
    trained = all(isinstance(p, nn.Parameter) and p.requires_grad for p in own)
    return trained and len([*module.parameters()]) == len(own) and not [*module.buffers()]


def _kinds(group: Group) -> tuple[tuple[str, str], ...]:
    return tuple((name, type(module).__name__) for name, module in group)


def _try_layer(group: Group, number: int, shape: Shape, *, tokens: bool) -> tuple[LayerSpec, frozenset[str]]:
    """The description of the layer and the attributes that change, from a trial on samples of this shape."""
    where = f"layer {number} ({', '.join(f'{name} {kind}' for name, kind in _kinds(group))})"
    module = copy_module(layer_module(group), where)
    parameters = dict(module.named_parameters())
    trained = tuple(name for name, p in parameters.items() if p.requires_grad)
    weights = {name: Weight(name=name, shape=tuple(p.shape)) for name, p in weights_of(module)}
    trial = try_module(module, where, shape, tokens=tokens)
    unreached, read = trial.remade | (trial.used - trial.met), trial.met | trial.remade
    parts = leaves(group)
    last = next((a for _, m in reversed(parts) if (a := from_module(m)) is not None and a.name != "identity"), None)
    spec = LayerSpec(
        key=next(name for name, m in (parts or group) if any(True for _ in m.parameters())),
        modules=_kinds(group),
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
