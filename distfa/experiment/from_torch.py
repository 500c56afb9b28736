"""Turns torch's optimizer and scheduler objects into settings, from which every layer makes its own."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch.optim import lr_scheduler

from distfa.core.optim import NAMES
from distfa.errors import SpecError

_KINDS = {torch.optim.SGD: "sgd", torch.optim.Adam: "adam", torch.optim.AdamW: "adamw"}
_TAKEN = {
    "sgd": ("lr", "momentum", "nesterov", "weight_decay"),
    "adam": ("lr", "betas", "eps", "weight_decay"),
    "adamw": ("lr", "betas", "eps", "weight_decay"),
}
_MUST_BE_OFF = ("dampening", "amsgrad", "maximize")
_BY_STEP = (lr_scheduler.OneCycleLR, lr_scheduler.CyclicLR)


def optimizer_settings(given: Any) -> Any:
    """The settings of a torch optimizer or of its class; anything else is returned as it is.

    Raises:
        SpecError: It is another kind of optimizer, or has several groups of parameters, or a setting that distfa lacks.
    """
    if isinstance(given, type) and issubclass(given, torch.optim.Optimizer):
        return {"name": _name_of(given)}
    if not isinstance(given, torch.optim.Optimizer):
        return given
    name, groups = _name_of(type(given)), given.param_groups
    if len(groups) > 1:
        raise SpecError(
            f"the optimizer has {len(groups)} groups of parameters; every layer runs the same optimizer, so give one "
            "group, and freeze what must not change (requires_grad_(False))"
        )
    for key in _MUST_BE_OFF:
        if groups[0].get(key):
            raise SpecError(f"the optimizer has {key}={groups[0][key]}, which distfa's does not have; leave it out")
    found = {key: groups[0][key] for key in _TAKEN[name]}
    found["lr"] = float(groups[0].get("initial_lr", found["lr"]))
    if name == "adam" and groups[0].get("decoupled_weight_decay"):
        name = "adamw"
    return {"name": name, **found}


def rates(given: Any, *, lr: float, steps: int, steps_per_epoch: int, by: str | None) -> list[tuple[int, float]]:
    """The learning rates that a torch scheduler gives, as (from step, rate) pairs.

    Args:
        given: A scheduler, which is not changed; or a function that makes one for an optimizer; or a function of the
            step or epoch that gives the factor of the rate, as for ``LambdaLR``.
        lr: The first rate, for a function that makes a scheduler.
        steps: Steps of the run.
        steps_per_epoch: Steps in an epoch.
        by: ``epoch`` (usual) or ``step``: when it is stepped; None: as its kind is usually stepped.

    Raises:
        SpecError: It depends on figures of the run, which no layer has, or it is not a scheduler.
    """
    scheduler = given
    if not isinstance(scheduler, lr_scheduler.LRScheduler) and callable(given):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
        try:
            scheduler = given(optimizer)
        except Exception as exc:
            raise SpecError(
                f"scheduler cannot be made ({type(exc).__name__}: {exc}); give a torch scheduler, or a function of an "
                "optimizer that makes one: lambda optimizer: StepLR(optimizer, 10)"
            ) from exc
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        raise SpecError(
            "ReduceLROnPlateau follows figures of the run, which the layers do not have; use a scheduler of steps or "
            "epochs, or EarlyStopping and a second fit at a lower rate"
        )
    if not isinstance(scheduler, lr_scheduler.LRScheduler):
        raise SpecError(f"scheduler is a {type(given).__name__}; it must be one of torch.optim.lr_scheduler")
    if by not in (None, "epoch", "step"):
        raise SpecError(f"scheduler_by is {by!r}; it must be 'epoch' or 'step'")
    every = 1 if by == "step" or (by is None and isinstance(scheduler, _BY_STEP)) else steps_per_epoch
    return _played(scheduler, steps, every)


def _played(scheduler: lr_scheduler.LRScheduler, steps: int, every: int) -> list[tuple[int, float]]:
    """The rates it would give in a run; afterwards it is as it was."""
    groups = scheduler.optimizer.param_groups
    before, kept = [dict(group) for group in groups], scheduler.state_dict()
    found: list[tuple[int, float]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its warning that no optimizer made a step in between
        for step in range(0, steps, every):
            rate = float(groups[0]["lr"])
            if not found or found[-1][1] != rate:
                found.append((step, rate))
            scheduler.step()
    scheduler.load_state_dict(kept)
    for group, old in zip(groups, before, strict=True):
        group.update({key: value for key, value in old.items() if key != "params"})
    return found


def _name_of(kind: type) -> str:
    name = _KINDS.get(kind)
    if name is None:
        raise SpecError(f"the optimizer is a {kind.__name__}; distfa has {', '.join(NAMES)}")
    return name
