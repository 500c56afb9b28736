"""What can be seen of a run while it goes on, and what an observer can do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from distfa.core.records import Record
from distfa.experiment.result import Tally


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What can be shown while a run goes on.

    Attributes:
        steps: Updates the run will make.
        record: What just happened; None when training is about to begin.
        tally: The figures so far.
        boundaries: Bytes so far, per boundary.
        layers: Where each layer is, its process and how it is doing; none where nothing is distributed.
        steps_per_epoch: Of the training set.
        weights: All weights under the model's keys, as they are at a cut: to be called while ``record`` is one.
        stop: Ends the run at the next cut, with a reason in words; what it has learned by then is its result.
    """

    steps: int
    record: Record | None
    tally: Tally
    boundaries: Callable[[], list[dict[str, Any]]]
    layers: Callable[[], list[dict[str, Any]]]
    steps_per_epoch: int
    weights: Callable[[], dict[str, Tensor]]
    stop: Callable[[str], None]


Observer = Callable[[Progress], None]
