"""A user's own loss: a module or a function of (output, target), whose value is the mean or the sum over the samples.

It is called as torch's own loop would call it, on the outputs of one micro-batch, and autograd gives its gradient.
Where an answer belongs to every position of a sequence, positions are rows: outputs (n T, C), labels (n T,).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from distfa.core.base.scored import Scored, count_correct

_WEIGHING = (nn.CrossEntropyLoss, nn.NLLLoss)  # their mean is over the weights of the labels, and not over rows


class OwnLoss:
    """A loss that is not distfa's.

    Args:
        given: The module or the function.

    Raises:
        ValueError: It is neither, it cannot be trained with, or it has parameters.
    """

    def __init__(self, given: Any) -> None:
        if not callable(given):
            raise ValueError(
                f"is of type {type(given).__name__}; a loss is a torch.nn.Module or a function of (output, target)"
            )
        if getattr(given, "reduction", "mean") not in ("mean", "sum"):
            raise ValueError(f"has reduction={given.reduction!r}, but a loss is one number; give 'mean' or 'sum'")
        if isinstance(given, nn.Module) and any(p.requires_grad for p in given.parameters()):
            raise ValueError(
                "has parameters that would be trained, but only layers are; put them into the model, or set "
                "requires_grad to False"
            )
        self._given, self._made = given, dict[tuple[Any, ...], Callable[..., Any]]()
        self._reduction: str | None = getattr(given, "reduction", None)
        self.weighs = isinstance(given, _WEIGHING) and self._reduction == "mean"

    def __call__(self, output: Tensor, target: Tensor, whole: float) -> Scored:
        """The share of one micro-batch; ``whole`` is ``weight`` of the targets of the whole batch.

        The gradient is that of the batch's value. The loss is the mean over the samples also where the value is their
        sum, so that it can be compared from batch to batch.
        """
        leaf = output.detach().requires_grad_()
        with torch.enable_grad():
            value = self._value(leaf, target)
            (gradient,) = torch.autograd.grad(value, leaf)
        part = self.weight(target)
        if self.reduction(output, target) == "sum":
            return self._scored(value.item() / whole, gradient, whole, output, target)
        share = part / whole
        return self._scored(value.item() * share if part else 0.0, gradient * share, whole, output, target)

    def weight(self, target: Tensor) -> float:
        """How much targets weigh in the mean of a batch: their rows, or the sum of their classes' weights."""
        if not self.weighs or target.is_floating_point():
            return float(len(target))
        labels = target.flatten()
        labels = labels[labels != self._given.ignore_index]
        return float(
            len(labels) if self._given.weight is None else self._given.weight.double().cpu()[labels.cpu()].sum()
        )

    def reduction(self, output: Tensor, target: Tensor) -> str:
        """``mean`` or ``sum``; where the loss does not say which, samples that come twice tell."""
        if self._reduction is not None:
            return self._reduction
        with torch.no_grad():
            one = self._value(output, target).item()
            two = self._value(torch.cat([output, output]), torch.cat([target, target])).item()
        found = "sum" if abs(two - 2 * one) < abs(two - one) else "mean"
        if one and math.isfinite(two):  # else both would look alike
            self._reduction = found
        return found

    def _scored(self, loss: float, gradient: Tensor, whole: float, output: Tensor, target: Tensor) -> Scored:
        right = 0 if target.is_floating_point() else count_correct(output, target)
        return Scored(loss=loss, correct=right, gradient=gradient, scale=max(gradient.abs().max().item(), 1 / whole))

    def _value(self, output: Tensor, target: Tensor) -> Tensor:
        """Its value, one number."""
        if not target.is_floating_point() and target.ndim > 1:
            output, target = output.flatten(0, target.ndim - 1), target.flatten()
        value = self._on(output)(output, target)
        if not isinstance(value, Tensor) or value.numel() != 1:
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"the loss returned {found}, but it must return a tensor of one number: take its mean or sum"
            )
        return value.reshape(())

    def _on(self, output: Tensor) -> Callable[..., Any]:
        """The loss for outputs of this kind: a copy of a module, with its numbers in their dtype and place."""
        if not isinstance(self._given, nn.Module):
            return self._given  # type: ignore[no-any-return]
        key = output.device, output.dtype
        if key not in self._made:
            self._made[key] = copy.deepcopy(self._given).to(*key)
        return self._made[key]
