"""What the output layer makes of one micro-batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The output layer's result for one micro-batch.

    Attributes:
        loss: This micro-batch's share of the batch mean; shares add up.
        correct: Positions (or rows, if each row has one label) whose largest output is that of the label; under ``bce``
            outputs on the right side of 0; 0 for other float targets.
        gradient: dLoss/d output, of its shape.
        scale: The size of the numbers whose differences the gradient is made of, and so of its rounding.
    """

    loss: float
    correct: int
    gradient: Tensor
    scale: float = 0.0


def count_correct(output: Tensor, target: Tensor) -> int:
    """How many labels are those of the largest outputs."""
    return int((output.argmax(dim=-1) == target).sum().item())
