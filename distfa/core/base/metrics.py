"""Metrics: figures of a whole test set beside the loss, built in or a user's own.

A metric is a function of (outputs, targets) of all samples; or an object with ``reset``, ``update(output, target)`` and
``compute``, such as those of torchmetrics, which sees one part after the other and so needs no memory for all outputs.
It gives one number; several, one for each class; or a dictionary of numbers. Where an answer belongs to every position
of a sequence, positions are rows.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from distfa.own.parts import Parts, made, short

Figure = float | list[float | None] | dict[str, float | None]
"""What a metric gives: one number, or one for each class, or named ones; None is a figure that there is not."""

_GIVES = "it must give one number, one for each class, or a dictionary of numbers"


class Meter(Protocol):
    """A metric that is fed part by part."""

    def update(self, output: Tensor, target: Tensor) -> Any:
        """Take one part of the samples."""

    def compute(self) -> Any:
        """The figure of all parts."""


class _Whole:
    """The meter of a function, which keeps all outputs."""

    def __init__(self, function: Callable[[Tensor, Tensor], Any]) -> None:
        self._function, self._parts = function, list[tuple[Tensor, Tensor]]()

    def update(self, output: Tensor, target: Tensor) -> None:
        self._parts.append((output.cpu(), target.cpu()))

    def compute(self) -> Any:
        outputs, targets = zip(*self._parts, strict=True)
        return self._function(torch.cat(outputs), torch.cat(targets))


class Meters:
    """The meters of one evaluation.

    Args:
        names: Of the metrics.
    """

    def __init__(self, names: Sequence[str]) -> None:
        shown = [short(name) for name in names]
        titles = [word if shown.count(word) == 1 else name for name, word in zip(names, shown, strict=True)]
        self._meters = {title: METRICS[name]() for title, name in zip(titles, names, strict=True)}

    def update(self, output: Tensor, target: Tensor) -> None:
        """Take one part of the samples, (n, ..., C) and (n, ...)."""
        if not self._meters:
            return
        if not target.is_floating_point() and target.ndim > 1:
            output, target = output.flatten(0, target.ndim - 1), target.flatten()
        for meter in self._meters.values():
            meter.update(output.detach(), target)

    def compute(self) -> dict[str, Figure]:
        """The figures by the names of the metrics.

        Raises:
            ValueError: One is no figure.
        """
        return {title: _figure(title, meter.compute()) for title, meter in self._meters.items()}


def _figure(title: str, value: Any) -> Figure:
    if isinstance(value, Mapping):
        return {str(key): _known(float(part)) for key, part in value.items()}
    try:
        found = torch.as_tensor(value).detach()
    except (TypeError, ValueError, RuntimeError) as exc:
        raise ValueError(f"metric {title} gives {value!r:.80}; {_GIVES}") from exc
    if found.ndim > 1 or found.is_complex():
        raise ValueError(f"metric {title} gives numbers of shape {tuple(found.shape)}, {found.dtype}; {_GIVES}")
    found = found.double()
    return [_known(float(part)) for part in found] if found.ndim else float(found)


def _known(number: float) -> float | None:
    return None if math.isnan(number) else number


def numbers_of(figures: Mapping[str, Figure]) -> dict[str, float]:
    """Those figures that are one number."""
    return {name: value for name, value in figures.items() if isinstance(value, float)}


def in_words(name: str, figure: Figure, names: Sequence[str] = ()) -> str:
    """A figure in a few words: several by their mean and the lowest, with the name of its class."""
    if isinstance(figure, float):
        return f"{name} {figure:.4f}"
    parts = (
        figure if isinstance(figure, dict) else dict(zip(names or map(str, range(len(figure))), figure, strict=False))
    )
    known = {key: value for key, value in parts.items() if value is not None}
    if not known:
        return f"{name}: none"
    least = min(known, key=known.__getitem__)
    mean = sum(known.values()) / len(known)
    return f"{name}: mean {mean:.4f}, lowest {known[least]:.4f} ({least})"


# -- distfa's own -------------------------------------------------------------------------------


def top5(output: Tensor, target: Tensor) -> Tensor:
    """Share of the rows whose label is among the five largest outputs."""
    best = output.topk(min(5, output.shape[-1]), dim=-1).indices
    return (best == target.unsqueeze(-1)).any(-1).double().mean()


def recall(output: Tensor, target: Tensor) -> Tensor:
    """For each class: the share of its rows that are recognised, its accuracy; NaN for a class without rows."""
    right, wanted, _ = _counts(output, target)
    return right / wanted


def precision(output: Tensor, target: Tensor) -> Tensor:
    """For each class: the share of the rows taken for it that are of it; NaN for one that is never the answer."""
    right, _, answered = _counts(output, target)
    return right / answered


def f1(output: Tensor, target: Tensor) -> Tensor:
    """For each class: the harmonic mean of precision and recall."""
    right, wanted, answered = _counts(output, target)
    return 2 * right / (wanted + answered)


def mae(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error."""
    return (output - target).abs().mean()


def rmse(output: Tensor, target: Tensor) -> Tensor:
    """Root of the mean square error."""
    return (output - target).square().mean().sqrt()


def r2(output: Tensor, target: Tensor) -> Tensor:
    """Coefficient of determination, as a mean over the columns that vary."""
    spread = (target - target.mean(0)).square().sum(0)
    explained = torch.where(spread > 0, 1 - (output - target).square().sum(0) / spread, torch.nan)
    return explained.nanmean()


def _counts(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each class: (rows recognised, rows, rows taken for it), float64."""
    classes, answer = output.shape[-1], output.argmax(-1)
    sets = (target[answer == target], target, answer)
    right, wanted, answered = (torch.bincount(labels, minlength=classes).double() for labels in sets)
    return right, wanted, answered


def _accept(given: Any) -> Callable[[], Meter]:
    given = made(given)
    if all(callable(getattr(given, name, None)) for name in ("reset", "update", "compute")):
        return lambda: _fresh(given)
    if not callable(given):
        raise ValueError(
            f"is of type {type(given).__name__}; a metric is a function of (outputs, targets), or has reset, "
            "update and compute"
        )
    return lambda: _Whole(given)


def _fresh(given: Any) -> Meter:
    meter: Any = copy.deepcopy(given)
    meter.reset()
    return meter  # type: ignore[no-any-return]


METRICS: Parts[Callable[[], Meter]] = Parts(
    "metric",
    {function.__name__: _accept(function) for function in (top5, recall, precision, f1, mae, rmse, r2)},
    _accept,
)
PER_CLASS = ("recall", "precision", "f1")
FOR_LABELS, FOR_QUANTITIES = ("top5", *PER_CLASS), ("mae", "rmse", "r2")
