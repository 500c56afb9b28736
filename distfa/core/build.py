"""Which block a layer has: a ``LinearBlock``, drawn from the seed or given, or a ``ModuleBlock`` of modules."""

from __future__ import annotations

import torch
from torch import nn

from distfa.core import rules
from distfa.core.base.draw import initial_weight
from distfa.core.base.recipe import Recipe
from distfa.core.modules.block import Block
from distfa.core.modules.linear_block import LinearBlock
from distfa.core.modules.module_block import ModuleBlock
from distfa.core.modules.parameters import scaling_parameters
from distfa.errors import ModelError


def build_block(recipe: Recipe, index: int, device: torch.device, module: nn.Module | None) -> Block:
    """The inside of a layer, at its initial weights.

    Raises:
        ModelError: There is no module, and the layer cannot be drawn from the seed.
    """
    spec, private = recipe.network[index], recipe.private is not None
    fold = recipe.optimizer.fold and not private  # noise is added to a gradient that is whole
    drawn = recipe.network.seeded and recipe.init != "given"
    if drawn:
        weight = initial_weight(recipe, index).to(device, recipe.dtype)
        bias = torch.zeros(spec.outputs, dtype=recipe.dtype, device=device) if spec.bias else None
        return LinearBlock(spec.key, weight, bias, spec.activation, recipe.signal_dtype, fold=fold)
    if module is None:
        raise ModelError(f"layer {index} starts from the model's own modules, but they were not given")
    if not spec.plain:
        weights = {weight.name for weight in spec.weights}
        return ModuleBlock(
            module,
            trained=spec.trained,
            dtype=recipe.dtype,
            signals=recipe.signal_dtype,
            weights=tuple(weight.name for weight in spec.weights),
            moving=spec.moving,
            mixing=frozenset(dict(module.named_parameters()).keys() - weights - scaling_parameters(module)),
            positions=len(recipe.network.positions),
            z_of=spec.z_of if rules.RULES[recipe.rule].is_direct else "",
            own_apart=private,
            device=device,
        )
    given = module.state_dict()
    weight = given[f"{spec.key}.weight"].detach().to(device, recipe.dtype, copy=True)
    bias = given[f"{spec.key}.bias"].detach().to(device, recipe.dtype, copy=True) if spec.bias else None
    return LinearBlock(spec.key, weight, bias, spec.activation, recipe.signal_dtype, fold=fold)
