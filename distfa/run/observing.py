"""The view of a run that an observer gets as it trains, and what it can do there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from distfa.core.books.records import Record
from distfa.run.result import Result, Tally


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Passed to an observer as a run trains.

    Attributes:
        steps: Updates the run will make.
        record: What has just happened; None when training is about to begin.
        tally: The figures so far.
        boundaries: Gives the bytes so far, per boundary.
        layers: Gives where each layer is, its process and how it is doing; empty if nothing is distributed.
        epoch_ends: The number of steps after each epoch.
        weights: Gives all weights under the model's keys, as they are at a cut; to be called only while ``record`` is a
            cut.
        stop: Ends the run at the next cut, with a reason in words; what the run has learned by then is its result.
    """

    steps: int
    record: Record | None
    tally: Tally
    boundaries: Callable[[], list[dict[str, Any]]]
    layers: Callable[[], list[dict[str, Any]]]
    epoch_ends: frozenset[int]
    weights: Callable[[], dict[str, Tensor]]
    stop: Callable[[str], None]


Observer = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Earlier weights that a run ends with in place of its last ones.

    Attributes:
        weights: These weights, under the model's keys.
        figures: Losses and accuracies of the epoch that they are from, by the names of ``Result``.
        about: Why these, as JSON can hold it: ``monitor``, ``figure``, ``step``, ``epoch``.
    """

    weights: Mapping[str, Tensor]
    figures: Mapping[str, Any]
    about: Mapping[str, Any]

    def apply_to(self, result: Result) -> Result:
        """The result with the figures of these weights, which also says those of the last ones."""
        last = {name: getattr(result, name) for name in self.figures}
        return replace(result, **self.figures, best={**self.about, "last": last})


@runtime_checkable
class StatefulObserver(Protocol):
    """An observer that remembers what it saw, and so takes part in checkpoints, and that chooses the weights."""

    def __call__(self, progress: Progress) -> None:
        """Something has happened."""

    def state_dict(self) -> Any:
        """A copy of what it remembers; None for nothing."""

    def load_state_dict(self, state: Any) -> None:
        """Remember what was known at a cut."""

    def choose(self, weights: dict[str, Tensor]) -> Choice | None:
        """The run has ended well with these weights: choose others, or None for these."""
