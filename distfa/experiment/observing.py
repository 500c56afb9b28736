"""What an observer can see of a run while it goes on, and what it can do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from distfa.core.records import Record
from distfa.experiment.result import Tally


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What an observer gets while a run goes on.

    Attributes:
        steps: Updates the run will make.
        record: What has just happened; None when training is about to begin.
        tally: The figures so far.
        boundaries: Gives the bytes so far, per boundary.
        layers: Gives where each layer is, its process and how it is doing; empty if nothing is distributed.
        steps_per_epoch: Steps in a pass over the training set.
        weights: Gives all weights under the model's keys, as they are at a cut; to be called only while ``record`` is a
            cut.
        stop: Ends the run at the next cut, with a reason in words; what the run has learned by then is its result.
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
