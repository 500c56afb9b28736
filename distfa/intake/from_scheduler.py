"""Turns torch's schedulers into what they move: the values of every setting of every group, step by step.

A scheduler is played on a copy before the run, so that neither it nor its optimizer changes.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.optim import lr_scheduler

from distfa.core.base.optim import MOVABLE
from distfa.errors import SpecError
from distfa.intake.from_torch import kind_of, main_group

_BY_STEP = (lr_scheduler.OneCycleLR, lr_scheduler.CyclicLR)
_MADE_OF = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}

Values = list[tuple[int, float]]


def with_scheduler(
    settings: dict[str, Any],
    given: Any,
    optimizer: torch.optim.Optimizer | None,
    *,
    ends: Sequence[int],
    by: str | None,
) -> dict[str, Any]:
    """The settings of a spec's ``optimizer``, with what a torch scheduler moves in them: lr, momentum, betas, any.

    Args:
        settings: Those without it.
        given: A scheduler; or a function that makes one for an optimizer.
        optimizer: The optimizer object of the run, if one was given; neither is changed.
        ends: The number of steps after each epoch.
        by: ``epoch`` (usual) or ``step``: when it is stepped; None: as its kind is usually stepped.

    Raises:
        SpecError: It follows figures of the run, belongs to another optimizer, or is not a scheduler.
    """
    if by not in (None, "epoch", "step"):
        raise SpecError(f"scheduler_by is {by!r}; it must be 'epoch' or 'step'")
    own = _copy_optimizer(given, optimizer, settings)
    before = [_movable(group) for group in own.param_groups]
    scheduler = _scheduler(given, own)
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) or _has_plateau(scheduler):
        raise SpecError(
            "ReduceLROnPlateau follows metrics of the run, which the layers do not have; use a scheduler based "
            "on steps or epochs, or EarlyStopping and a second fit at a lower rate"
        )
    if not isinstance(scheduler, lr_scheduler.LRScheduler):
        raise SpecError(f"scheduler is a {type(given).__name__}; it must be one of torch.optim.lr_scheduler")
    if by == "step" or (by is None and isinstance(scheduler, _BY_STEP)):
        ends = range(1, ends[-1] + 1)
    moved = _play(scheduler, before, ends)
    groups = settings.get("groups")
    if groups is not None:
        groups = [{**group, **more} for group, more in zip(groups, moved, strict=True)]
    whole = moved[0 if groups is None else main_group(groups)]
    return settings | whole | {"groups": groups, "lr": max(value for _, value in whole["rates"])}


def _copy_optimizer(
    given: Any, optimizer: torch.optim.Optimizer | None, settings: dict[str, Any]
) -> torch.optim.Optimizer:
    """A copy of the optimizer that the scheduler moves, with the same parameters; else a new one with the settings."""
    of_scheduler = given.optimizer if has_optimizer(given) else None
    if optimizer is not None and of_scheduler not in (None, optimizer):
        raise SpecError(
            "the scheduler belongs to a different optimizer than the one given to Trainer; make it from that one"
        )
    if (source := optimizer or of_scheduler) is not None:
        if optimizer is None and (len(source.param_groups) > 1 or kind_of(source) != settings["name"]):
            raise SpecError(
                f"the scheduler belongs to a {type(source).__name__} with {len(source.param_groups)} groups, but "
                f"the run's optimizer is {settings['name']!r}; pass that optimizer to Trainer too (optimizer=...)"
            )
        return copy.deepcopy(source, {id(p): p for group in source.param_groups for p in group["params"]})
    keys = ("momentum", "dampening") if settings["name"] == "sgd" else ("betas", "eps")
    own = {key: settings[key] for key in (*keys, "lr", "weight_decay")}
    made: torch.optim.Optimizer = _MADE_OF[settings["name"]]([torch.nn.Parameter(torch.zeros(1))], **own)
    return made


def _scheduler(given: Any, own: torch.optim.Optimizer) -> Any:
    """A copy of the scheduler that moves ``own``, or the one that the function makes for it."""
    if has_optimizer(given):
        kept = {id(p): p for group in own.param_groups for p in group["params"]}
        return copy.deepcopy(given, {id(given.optimizer): own, **kept})
    if not callable(given):
        return given
    try:
        return given(own)
    except Exception as exc:
        raise SpecError(
            f"the scheduler cannot be created ({type(exc).__name__}: {exc}); pass a torch scheduler, or a "
            "function that makes one from an optimizer: lambda optimizer: StepLR(optimizer, 10)"
        ) from exc


def has_optimizer(given: Any) -> bool:
    """Whether it is a scheduler that was made for an optimizer."""
    return isinstance(getattr(given, "optimizer", None), torch.optim.Optimizer)


def _has_plateau(scheduler: Any) -> bool:
    parts = getattr(scheduler, "_schedulers", ())
    return any(isinstance(part, lr_scheduler.ReduceLROnPlateau) or _has_plateau(part) for part in parts)


def _play(
    scheduler: lr_scheduler.LRScheduler, before: list[dict[str, float]], ends: Iterable[int]
) -> list[dict[str, Any]]:
    """The settings it gives every group in a run: ``rates``, and ``moves`` of what else differs from ``before``."""
    groups = scheduler.optimizer.param_groups
    seen: list[dict[str, Values]] = [{} for _ in groups]
    step = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its warning that no optimizer made a step in between
        for end in ends:
            for values, group in zip(seen, groups, strict=True):
                _note(values, _movable(group), step)
            try:
                scheduler.step()
            except ValueError as exc:  # OneCycleLR after its last step
                raise SpecError(f"the scheduler ends before the run: {exc}; make it as long as the run") from exc
            step = end
    return [
        {
            "rates": values.pop("lr"),
            "moves": {key: value for key, value in values.items() if value != [(0, old[key])]},
        }
        for values, old in zip(seen, before, strict=True)
    ]


def _note(values: dict[str, Values], found: dict[str, float], step: int) -> None:
    """Note the settings of a group that differ from those at the step before."""
    for key, value in found.items():
        kept = values.setdefault(key, [])
        if not kept or kept[-1][1] != value:
            kept.append((step, value))


def _movable(group: dict[str, Any]) -> dict[str, float]:
    """The settings of a group that a scheduler may move, as they are now."""
    found = {key: group[key] for key in ("lr", *MOVABLE) if key in group}
    found |= dict(zip(("beta1", "beta2"), group.get("betas", ()), strict=False))
    return {key: float(value) for key, value in found.items()}
