"""How good outputs are: loss and accuracy, or the errors of a regression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from distfa.core.base.losses import Loss, divisor
from distfa.core.base.metrics import Meters, mae, r2, rmse
from distfa.core.base.own_loss import OwnLoss


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
        metrics: The figures of the trainer's metrics.
    """

    rows: int
    loss: float
    accuracy: float | None = None
    mae: float | None = None
    rmse: float | None = None
    r2: float | None = None
    metrics: dict[str, Any] = field(default_factory=dict)


def scores(output: Tensor, target: Tensor, loss: Loss, name: str, metrics: Sequence[str] = ()) -> Scores:
    """The scores of outputs (n, ..., C) against labels (n, ...) or floats (n, C).

    Raises:
        DataError: They do not fit together.
    """
    rows, meters = len(output), Meters(metrics)
    labels = not target.is_floating_point()
    alike = target if labels else target.to(output.dtype)  # what is a user's own gets the model's dtype, as in a run
    meters.update(output, alike)
    figures = meters.compute()
    if isinstance(loss, OwnLoss):
        target = alike
    else:
        output, target = output.double(), target if labels else target.double()
    found = loss(output, target, divisor(loss, lambda rows: target, np.arange(rows)))
    if name == "bce" or labels:
        return Scores(rows=rows, loss=found.loss, accuracy=found.correct / target.numel(), metrics=figures)
    return Scores(
        rows=rows,
        loss=found.loss,
        mae=mae(output, target).item(),
        rmse=rmse(output, target).item(),
        r2=r2(output, target).item(),
        metrics=figures,
    )
