"""Losses: the batch mean, and its gradient with respect to the network's output, in closed form.

Shapes: output (n, C) of one micro-batch of n rows; ``rows`` counts the whole batch, so that
micro-batches add up to the batch mean. Labels (n,) int64; float targets (n, C).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What the output layer makes of one micro-batch.

    Attributes:
        loss: This micro-batch's share of the batch mean; shares add up.
        correct: Rows whose largest output is the label's; 0 for float targets.
        gradient: dLoss/d output, shape (n, C).
    """

    loss: float
    correct: int
    gradient: Tensor


class Loss(Protocol):
    """A loss over (output, target)."""

    def __call__(self, output: Tensor, target: Tensor, rows: int) -> Scored: ...


def cross_entropy(output: Tensor, target: Tensor, rows: int) -> Scored:
    """Softmax cross-entropy: mean of -log softmax(output)[label]; gradient (softmax - onehot) / rows."""
    log_p = torch.log_softmax(output, dim=1)
    labels = target.unsqueeze(1)
    loss = -log_p.gather(1, labels).sum() / rows
    gradient = log_p.exp()
    gradient.scatter_add_(1, labels, torch.full_like(labels, -1, dtype=output.dtype))
    gradient /= rows
    return Scored(loss=loss.item(), correct=_correct(output, target), gradient=gradient)


def mse(output: Tensor, target: Tensor, rows: int) -> Scored:
    """Mean squared error over rows and columns, as ``torch.nn.MSELoss``; labels become one-hot rows."""
    if target.dim() == 1:
        wanted = torch.zeros_like(output).scatter_(1, target.unsqueeze(1), 1.0)
        correct = _correct(output, target)
    else:
        wanted, correct = target, 0
    difference = output - wanted
    elements = rows * output.shape[1]
    return Scored(
        loss=(difference.square().sum() / elements).item(),
        correct=correct,
        gradient=difference.mul_(2.0 / elements),
    )


def _correct(output: Tensor, target: Tensor) -> int:
    return int((output.argmax(dim=1) == target).sum().item())


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "mse": mse}
