"""The records that an engine reports as it trains: one per step, one per evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from distfa.core.books.digest import DigestRecord
from distfa.core.books.ledger import LedgerRecord
from distfa.core.books.probe import ProbeRecord


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """Some rows, as the output layer scored them.

    Attributes:
        step: Counted from 0.
        epoch: Counted from 0.
        loss: Their mean.
        correct: How many were classified correctly; 0 for float targets.
        rows: How many they are.
        seconds: When it ended, in seconds since training began; engines need not agree on this.
    """

    step: int
    epoch: int
    loss: float
    correct: int
    rows: int
    seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True, kw_only=True)
class StepRecord(_Scored):
    """One training step, seen from the output layer: the batch, before the update."""


@dataclass(frozen=True, kw_only=True)
class EvalRecord(_Scored):
    """One pass over the whole test set, after step ``step``.

    Attributes:
        metrics: The figures of the recipe's metrics.
    """

    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AuditRecord:
    """The outputs of the trained layers for a few training samples, to compare with those of the user's model.

    Attributes:
        rows: How many samples: the first ones of the training set.
        outputs: The network's outputs for them, row by row.
    """

    rows: int
    outputs: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class RenewalRecord:
    """Direct feedback was renewed, before the backwards of a step.

    Attributes:
        step: Counted from 0.
        cosine: The alignment that called for it; None where it was due at a fixed interval, or at the start.
    """

    step: int
    cosine: float | None = None


@dataclass(frozen=True, kw_only=True)
class Span:
    """One operation of a layer, with its start and end.

    Attributes:
        operation: ``forward``, ``begin``, ``backward``, ``update`` or ``evaluate`` (``distfa.core.schedule``).
        step: Counted from 0.
        micro_batch: Within the step; None where the operation is the step's.
        start: Seconds since the epoch, by the clock of the layer's machine.
        end: Likewise.
        waited: Seconds of it spent waiting for other layers.
    """

    operation: str
    step: int
    micro_batch: int | None
    start: float
    end: float
    waited: float


@dataclass(frozen=True, kw_only=True)
class TimelineRecord:
    """All that one layer did in a few steps; engines need not agree on it."""

    layer: int
    spans: tuple[Span, ...] = field(compare=False)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A place where a run can continue: the records before it are of steps before ``step``, those after it are not.

    Attributes:
        step: The next one, counted from 0.
    """

    step: int


Record = (
    StepRecord
    | EvalRecord
    | AuditRecord
    | LedgerRecord
    | DigestRecord
    | ProbeRecord
    | RenewalRecord
    | TimelineRecord
    | Cut
)
