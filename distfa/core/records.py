"""What an engine reports as it trains: one record per step, one per evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field

from distfa.core.ledger import LedgerRecord
from distfa.core.probe import ProbeRecord


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One training step, seen from the output layer.

    Attributes:
        step: Counted from 0.
        epoch: Counted from 0.
        loss: Batch mean, before the update.
        correct: Rows classified right, before the update; 0 for float targets.
        rows: Rows of the batch.
        seconds: When it ended, since training began; not part of what engines must agree on.
    """

    step: int
    epoch: int
    loss: float
    correct: int
    rows: int
    seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True, kw_only=True)
class EvalRecord:
    """One pass over the test set after step ``step``; fields as ``StepRecord``, over the whole test set."""

    step: int
    epoch: int
    loss: float
    correct: int
    rows: int
    seconds: float = field(default=0.0, compare=False)


Record = StepRecord | EvalRecord | LedgerRecord | ProbeRecord
