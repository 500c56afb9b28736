"""Turns torch's optimizer objects into settings, from which every layer makes its own.

What the object says is read when a fit begins, so a rate that was lowered after it was made counts. Which kernels torch
would run (``foreach``, ``fused``, ``capturable``) does not matter here: they compute the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import optimizer as torch_optimizer

from distfa.core.base.optim import NAMES
from distfa.errors import SpecError

_KINDS = {torch.optim.SGD: "sgd", torch.optim.Adam: "adam", torch.optim.AdamW: "adamw"}
_TAKEN = {
    "sgd": ("lr", "momentum", "dampening", "nesterov", "weight_decay", "maximize"),
    **dict.fromkeys(("adam", "adamw"), ("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize")),
}


def optimizer_of(given: Any, model: nn.Module) -> torch.optim.Optimizer | None:
    """The optimizer object that was given, or that the class or function that was given makes; None for settings.

    Raises:
        SpecError: It cannot be made, or is one whose steps distfa cannot make.
    """
    if callable(given):
        try:
            given = given(model.parameters())
        except Exception as exc:
            raise SpecError(
                f"the optimizer cannot be created ({type(exc).__name__}: {exc}); pass settings, a torch "
                "optimizer, or a function that makes one from parameters: lambda parameters: SGD(parameters, "
                "lr=0.1)"
            ) from exc
    if not isinstance(given, torch.optim.Optimizer):
        return None
    optimizer_settings(given, model)
    return given


def optimizer_settings(given: torch.optim.Optimizer, model: nn.Module) -> dict[str, Any]:
    """The settings of a torch optimizer as it is now, by the keys of a spec's ``optimizer``.

    Several groups, or one that has only some of the parameters to train, become ``groups``; the settings outside
    ``groups`` are those of the first group with a rate above 0, which feedback that learns follows.

    Raises:
        SpecError: It is another kind of optimizer, has made steps, or has hooks or a setting that distfa lacks.
    """
    name = kind_of(given)
    _require_fresh(given)
    keys = {parameter: key for key, parameter in model.named_parameters()}
    groups = []
    for number, group in enumerate(given.param_groups):
        if group.get("differentiable"):
            raise SpecError("the optimizer has differentiable=True, which distfa's does not have; leave it out")
        strange = [i for i, parameter in enumerate(group["params"]) if parameter not in keys]
        if strange:
            raise SpecError(
                f"parameter {strange[0]} in group {number} of the optimizer does not belong to the model; make "
                "the optimizer from the parameters of the model given to Trainer"
            )
        groups.append({"parameters": [keys[p] for p in group["params"] if p.requires_grad], **_settings(name, group)})
    main = dict(groups[main_group(groups)])
    trained = {key for parameter, key in keys.items() if parameter.requires_grad}
    whole = len(groups) == 1 and set(main["parameters"]) == trained and main["lr"] > 0
    del main["parameters"]
    main |= {"lr": main["lr"] or max(float(group.get("initial_lr", 0.0)) for group in given.param_groups)}
    return {"name": name, **main, "groups": None if whole else groups}


def main_group(groups: Sequence[Mapping[str, Any]]) -> int:
    """The first group with something to train and a rate above 0: the one that stands for the whole."""
    return next((i for i, group in enumerate(groups) if group["lr"] > 0 and group["parameters"]), 0)


def is_optimizer_of(optimizer: torch.optim.Optimizer, model: nn.Module) -> bool:
    """Whether all its parameters are the model's."""
    keys = set(model.parameters())
    return all(parameter in keys for group in optimizer.param_groups for parameter in group["params"])


def kind_of(given: torch.optim.Optimizer) -> str:
    """The name of a torch optimizer in a spec.

    Raises:
        SpecError: distfa does not have it.
    """
    name = _KINDS.get(type(given))
    if name is None:
        raise SpecError(
            f"the optimizer is a {type(given).__name__}; distfa supports {', '.join(NAMES)}, which every layer "
            "can run on its own and the books can follow"
        )
    return "adamw" if name == "adam" and given.param_groups[0].get("decoupled_weight_decay") else name


def _settings(name: str, group: dict[str, Any]) -> dict[str, Any]:
    found = {key: group[key] for key in _TAKEN[name]}
    numbers = {key: float(value) for key, value in found.items() if key not in ("betas", "nesterov", *_FLAGS)}
    betas = {"betas": tuple(map(float, found["betas"]))} if "betas" in found else {}
    return found | numbers | betas


_FLAGS = ("amsgrad", "maximize")


def _require_fresh(given: torch.optim.Optimizer) -> None:
    """Refuse what a run would not continue: earlier steps, and functions that are called around steps.

    Raises:
        SpecError: Names it.
    """
    if kept := next((sorted(state) for state in given.state.values() if state), None):
        raise SpecError(
            f"the optimizer has already taken steps, and its state ({', '.join(kept)}) would be lost, since every "
            "run starts with a new state; pass a new optimizer, or resume an earlier run with fit(..., "
            "resume=RUN_DIR)"
        )
    hooks = (
        given._optimizer_step_pre_hooks,
        given._optimizer_step_post_hooks,
        torch_optimizer._global_optimizer_pre_hooks,
        torch_optimizer._global_optimizer_post_hooks,
    )
    if any(hooks):
        raise SpecError(
            "the optimizer has hooks around its steps, but every layer steps in its own process, without them; "
            "remove them, or use a distfa.Callback"
        )
