"""What an engine reports as it trains: one record per step, one per evaluation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One training step, seen from the output layer.

    Attributes:
        step: Counted from 0.
        epoch: Counted from 0.
        loss: Batch mean, before the update.
        correct: Rows classified right, before the update; 0 for float targets.
        rows: Rows of the batch.
    """

    step: int
    epoch: int
    loss: float
    correct: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class EvalRecord:
    """One pass over the test set after step ``step``: mean loss, and rows classified right."""

    step: int
    epoch: int
    loss: float
    correct: int
    rows: int


Record = StepRecord | EvalRecord
