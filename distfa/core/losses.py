"""Losses: the batch mean, and its gradient with respect to the network's output, in closed form.

Shapes: output (n, ..., C) of one micro-batch of n rows, classes last; the axes between count positions,
none for ordinary outputs (n, C). Labels (n, ...) int64, one per position; float targets as the output.
``rows`` counts the rows of the whole batch, so that micro-batches add up to the batch mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from distfa.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What the output layer makes of one micro-batch.

    Attributes:
        loss: This micro-batch's share of the batch mean; shares add up.
        correct: Positions (rows, where each has one label) whose largest output is the label's; 0 for
            float targets.
        gradient: dLoss/d output, of its shape.
    """

    loss: float
    correct: int
    gradient: Tensor


class Loss(Protocol):
    """A loss over (output, target)."""

    def __call__(self, output: Tensor, target: Tensor, rows: int) -> Scored: ...


def cross_entropy(output: Tensor, target: Tensor, rows: int) -> Scored:
    """Softmax cross-entropy over rows and positions: mean of -log softmax(output)[label].

    Its gradient is (softmax - onehot) / (rows * positions).

    Raises:
        DataError: The output and the labels do not fit together.
    """
    _check_shape(output, target, output.shape[:-1])
    log_p = torch.log_softmax(output, dim=-1)
    labels = target.unsqueeze(-1)
    count = rows * math.prod(target.shape[1:])
    loss = -log_p.gather(-1, labels).sum() / count
    gradient = log_p.exp()
    gradient.scatter_add_(-1, labels, torch.full_like(labels, -1, dtype=output.dtype))
    gradient /= count
    return Scored(loss=loss.item(), correct=_correct(output, target), gradient=gradient)


def mse(output: Tensor, target: Tensor, rows: int) -> Scored:
    """Mean squared error over all numbers of the output, as ``torch.nn.MSELoss``; labels become one-hot rows.

    Raises:
        DataError: The output and the targets do not fit together.
    """
    if target.is_floating_point():
        _check_shape(output, target, output.shape)
        wanted, correct = target, 0
    else:
        _check_shape(output, target, output.shape[:-1])
        wanted = torch.zeros_like(output).scatter_(-1, target.unsqueeze(-1), 1.0)
        correct = _correct(output, target)
    difference = output - wanted
    elements = rows * math.prod(output.shape[1:])
    return Scored(
        loss=(difference.square().sum() / elements).item(),
        correct=correct,
        gradient=difference.mul_(2.0 / elements),
    )


def _correct(output: Tensor, target: Tensor) -> int:
    return int((output.argmax(dim=-1) == target).sum().item())


def _check_shape(output: Tensor, target: Tensor, wanted: torch.Size) -> None:
    """Refuse targets that torch would broadcast, or read in part."""
    if target.shape != wanted:
        raise DataError(
            f"the network gives an output of shape {tuple(output.shape)}, whose targets have shape {tuple(wanted)}, "
            f"and the data set's have {tuple(target.shape)}; classes are the output's last axis"
        )


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "mse": mse}
