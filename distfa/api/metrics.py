"""How good outputs are: loss and accuracy, or the errors of a regression."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distfa.core.base.losses import Loss


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How good a model's outputs are.

    Attributes:
        rows: Number of samples.
        loss: Mean loss.
        accuracy: Share of correct labels; under ``bce`` of correct decisions. None for quantities.
        mae: Mean absolute error; this and the next two are None for labels.
        rmse: Root of the mean square error.
        r2: Coefficient of determination, as a mean over columns: 1 is perfect, 0 is as good as the mean of the targets.
    """

    rows: int
    loss: float
    accuracy: float | None = None
    mae: float | None = None
    rmse: float | None = None
    r2: float | None = None


def scores(output: Tensor, target: Tensor, loss: Loss, name: str) -> Scores:
    """The scores of outputs (n, ..., C) against labels (n, ...) or floats (n, C).

    Raises:
        DataError: They do not fit together.
    """
    rows, output = len(output), output.double()
    target = target.double() if target.is_floating_point() else target
    found = loss(output, target, rows)
    if name == "bce" or not target.is_floating_point():
        return Scores(rows=rows, loss=found.loss, accuracy=found.correct / target.numel())
    error = output - target
    spread = (target - target.mean(0)).square().sum(0)
    explained = torch.where(spread > 0, 1 - error.square().sum(0) / spread, torch.nan)
    return Scores(
        rows=rows,
        loss=found.loss,
        mae=error.abs().mean().item(),
        rmse=error.square().mean().sqrt().item(),
        r2=explained.nanmean().item(),
    )
