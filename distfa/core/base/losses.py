"""Losses: the batch mean, and its gradient with respect to the network's output, in closed form.

Shapes: output (n, ..., C) of one micro-batch of n rows, classes last; the axes in between are positions, and ordinary
outputs (n, C) have none. Labels are (n, ...) int64, one per position; float targets have the output's shape. ``rows``
counts the rows of the whole batch, so that micro-batches add up to the batch mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distfa.core.base.own_loss import OwnLoss
from distfa.core.base.scored import Scored, count_correct
from distfa.errors import DataError
from distfa.own.parts import Parts, made


class Loss(Protocol):
    """A loss over (output, target)."""

    def __call__(self, output: Tensor, target: Tensor, rows: float, /) -> Scored: ...


def cross_entropy(output: Tensor, target: Tensor, rows: float) -> Scored:
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
    return Scored(loss=loss.item(), correct=count_correct(output, target), gradient=gradient, scale=1 / count)


def weighted_cross_entropy(
    output: Tensor, target: Tensor, rows: float, *, label_smoothing: float, class_weights: Sequence[float] | None
) -> Scored:
    """Cross-entropy with smoothed labels and weighted classes.

    The loss of a row with label y is -sum_c q_c log softmax(output)_c, where
    q_c = w_y (1 - a) [c = y] + w_c a / C; its gradient is (sum_c q_c) softmax - q. Both are those of
    ``torch.nn.CrossEntropyLoss(weight=w, label_smoothing=a, reduction="sum")``, divided by rows * positions. torch's
    own mean divides by the sum of the labels' weights instead, which no part of a batch knows.

    Args:
        output: As ``cross_entropy``.
        target: Labels.
        rows: Of the whole batch.
        label_smoothing: a, 0 .. 1.
        class_weights: w, one number per class; None: 1 for all.

    Raises:
        DataError: As ``cross_entropy``.

    Source: Szegedy et al., CVPR 2016, for smoothing.
    """
    _check_shape(output, target, output.shape[:-1])
    weights = output.new_ones(output.shape[-1]) if class_weights is None else output.new_tensor(list(class_weights))
    log_p, labels = torch.log_softmax(output, dim=-1), target.unsqueeze(-1)
    wanted = (weights * (label_smoothing / output.shape[-1])).expand(output.shape).clone()
    wanted.scatter_add_(-1, labels, weights[labels] * (1 - label_smoothing))
    count = rows * math.prod(target.shape[1:])
    loss = -(wanted * log_p).sum() / count
    gradient = log_p.exp().mul_(wanted.sum(-1, keepdim=True)).sub_(wanted).div_(count)
    scale = wanted.max().item() / count
    return Scored(loss=loss.item(), correct=count_correct(output, target), gradient=gradient, scale=scale)


def bce(output: Tensor, target: Tensor, rows: float) -> Scored:
    """Binary cross-entropy of every output on its own, as ``torch.nn.BCEWithLogitsLoss``: several labels at once.

    Its gradient is (sigmoid(output) - target) / (rows * outputs). Class labels become one-hot rows.

    Raises:
        DataError: The output and the targets do not fit together.
    """
    wanted = _as_floats(target, output)
    elements = rows * math.prod(output.shape[1:])
    loss = torch.nn.functional.binary_cross_entropy_with_logits(output, wanted, reduction="sum") / elements
    right = (
        int(((output > 0) == (wanted > 0.5)).sum().item())
        if target.is_floating_point()
        else count_correct(output, target)
    )
    gradient = torch.sigmoid(output).sub_(wanted).div_(elements)
    return Scored(loss=loss.item(), correct=right, gradient=gradient, scale=1 / elements)


def mse(output: Tensor, target: Tensor, rows: float) -> Scored:
    """Mean squared error over all numbers of the output, as ``torch.nn.MSELoss``; labels become one-hot rows.

    Raises:
        DataError: The output and the targets do not fit together.
    """
    wanted = _as_floats(target, output)
    difference = output - wanted
    elements = rows * math.prod(output.shape[1:])
    return Scored(
        loss=(difference.square().sum() / elements).item(),
        correct=0 if target.is_floating_point() else count_correct(output, target),
        gradient=difference.mul_(2.0 / elements),
        scale=wanted.abs().max().item() * 2 / elements,
    )


def _as_floats(target: Tensor, output: Tensor) -> Tensor:
    """Float targets as they are, labels as one-hot rows."""
    if target.is_floating_point():
        _check_shape(output, target, output.shape)
        return target
    _check_shape(output, target, output.shape[:-1])
    return torch.zeros_like(output).scatter_(-1, target.unsqueeze(-1), 1.0)


def _check_shape(output: Tensor, target: Tensor, wanted: torch.Size) -> None:
    """Refuse targets that torch would broadcast or of which it would read only a part."""
    if target.shape != wanted:
        raise DataError(
            f"the network's output has shape {tuple(output.shape)}, which needs targets of shape {tuple(wanted)}, "
            f"but the data set's have {tuple(target.shape)}; classes are the output's last axis"
        )


def find_loss(name: str, *, label_smoothing: float = 0.0, class_weights: Sequence[float] | None = None) -> Loss:
    """The loss of that name; smoothing and class weights are cross-entropy's.

    Raises:
        ValueError: They are given to another loss.
    """
    if not label_smoothing and class_weights is None:
        return LOSSES[name]
    if name != "cross_entropy":
        raise ValueError(
            f"label_smoothing and class_weights work only with loss cross_entropy, not {name!r}; leave them out"
        )
    return partial(weighted_cross_entropy, label_smoothing=label_smoothing, class_weights=class_weights)


def divisor(loss: Loss, read: Callable[[NDArray[np.int64]], Tensor], rows: NDArray[np.int64]) -> float:
    """What the value of a whole batch, or of a whole split, is divided by: a loss's third argument.

    Args:
        loss: Which loss.
        read: Reads the targets of rows.
        rows: All of them.

    Raises:
        DataError: It would be 0.
    """
    if not (isinstance(loss, OwnLoss) and loss.weighs):
        return len(rows)
    if not (found := loss.weight(read(rows))):
        raise DataError(
            f"no label in this batch or split of {len(rows)} samples counts in the loss (ignore_index, or weights of "
            "0), so there is no mean; use larger batches, or reduction='sum'"
        )
    return found


def _accept(given: Any) -> Loss:
    return OwnLoss(made(given))


LOSSES: Parts[Loss] = Parts("loss", {"cross_entropy": cross_entropy, "mse": mse, "bce": bce}, _accept)
