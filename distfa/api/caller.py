"""Turns the progress of a run into calls of callbacks and rows of the history, and keeps what they know."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import Tensor

from distfa.api.callbacks import At, BestWeights, Callback
from distfa.api.history import METRICS_OF_ROW, History
from distfa.core.base.metrics import numbers_of
from distfa.core.books.records import Cut, EvalRecord, StepRecord
from distfa.errors import SpecError
from distfa.run.disk import callback_state
from distfa.run.observing import Choice, Observer, Progress

log = logging.getLogger(__name__)


class Caller:
    """The observer of a fit.

    Args:
        callbacks: They are called.
        history: Rows are added to it.
        columns: The columns of the history that this run will fill.
        evaluates_every: Epochs between evaluations; None without a test set.
        settings: The keys of the spec, which callbacks may read.
        observer: Is told of everything, too.

    Raises:
        SpecError: A callback watches a figure that the run will not have.
    """

    def __init__(
        self,
        callbacks: Sequence[Callback],
        history: History,
        *,
        columns: Collection[str],
        evaluates_every: int | None,
        settings: Mapping[str, Any] = MappingProxyType({}),
        observer: Observer | None = None,
    ) -> None:
        for callback in callbacks:
            if isinstance(callback, BestWeights):
                callback.require(columns)
        self._callbacks, self._history, self._every = callbacks, history, evaluates_every
        self._observer, self._settings = observer, settings
        self._first_epoch = history.rows[-1]["epoch"] if history.rows else 0
        self._last: Progress | None = None
        self._weights: dict[str, Tensor] = {}
        self._checked = False

    def __call__(self, progress: Progress) -> None:
        """One record of a run."""
        self._last, record = progress, progress.record
        if record is None:
            self._tell("on_start", progress)
        elif isinstance(record, StepRecord):
            self._tell("on_step", progress)
            last = record.step + 1 == progress.steps
            if record.step + 1 in progress.epoch_ends:
                self._add(progress, record)
                if not (self._every and (last or (record.epoch + 1) % self._every == 0)):
                    self._tell("on_epoch", progress)
        elif isinstance(record, EvalRecord):
            self._history.rows[-1] |= {
                "seconds": round(record.seconds, 3),
                "test_loss": progress.tally.test_loss,
                "test_accuracy": progress.tally.test_accuracy,
                **_metrics(record),
                METRICS_OF_ROW: record.metrics,
            }
            self._tell("on_evaluation", progress)
            self._tell("on_epoch", progress)
        elif isinstance(record, Cut):
            self._tell("on_checkpoint", progress)
        if self._observer is not None:
            self._observer(progress)

    def choose(self, weights: dict[str, Tensor]) -> Choice | None:
        """The run has ended well with these weights: the best ones, if a callback has kept them."""
        self._weights = weights
        if self._last is None:
            return None
        at = self._at(self._last, lambda: weights)
        chosen = [callback.choose(at) for callback in self._callbacks if isinstance(callback, BestWeights)]
        return next((choice for choice in chosen if choice is not None), None)

    def end(self) -> None:
        """The result is kept: tell callbacks of the end."""
        if self._last is not None:
            for callback in self._callbacks:
                callback.on_end(self._at(self._last, lambda: self._weights))

    # -- what callbacks know --------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """A copy of the history and of what every callback knows.

        Raises:
            SpecError: The state of a callback cannot be kept in a checkpoint.
        """
        best = [callback.weights for callback in self._callbacks if isinstance(callback, BestWeights)]
        shared: dict[int, Any] = {id(value): value for weights in best for value in (weights or {}).values()}
        known = [(type(callback).__name__, callback.state_dict()) for callback in self._callbacks]
        if not self._checked:
            _require_keepable(known)
            self._checked = True
        rows = self._history.rows
        return {
            "history": [*rows[:-1], *(dict(row) for row in rows[-1:])],  # only the last one still changes
            "first_epoch": self._first_epoch,
            "callbacks": copy.deepcopy(known, shared),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the history and with what callbacks of these classes knew, in their order."""
        self._history.rows[:] = [dict(row) for row in state["history"]]
        self._first_epoch = state["first_epoch"]
        known = copy.deepcopy(state["callbacks"])
        for callback in self._callbacks:
            mine = next((entry for entry in known if entry[0] == type(callback).__name__), None)
            if mine is not None:
                known.remove(mine)
                callback.load_state_dict(mine[1])
        if left := [name for name, kept in known if kept]:
            log.warning("the checkpoint includes %s, which this fit does not have", ", ".join(left))

    # -- parts ----------------------------------------------------------------------------------

    def _add(self, progress: Progress, record: StepRecord) -> None:
        tally = progress.tally
        self._history.rows.append(
            {
                "epoch": self._first_epoch + record.epoch + 1,
                "step": tally.steps,
                "seconds": round(record.seconds, 3),
                "train_loss": tally.train_loss,
                "train_accuracy": tally.train_accuracy,
                "test_loss": None,
                "test_accuracy": None,
            }
        )

    def _tell(self, what: str, progress: Progress) -> None:
        for callback in self._callbacks:
            getattr(callback, what)(self._at(progress, progress.weights))

    def _at(self, progress: Progress, weights: Callable[[], dict[str, Tensor]]) -> At:
        tally = progress.tally
        figures = {
            name: getattr(tally, name) for name in ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
        }
        figures |= {} if tally.test is None else _metrics(tally.test)
        return At(
            step=tally.steps,
            steps=progress.steps,
            epoch=max(tally.epoch, 0) + 1,
            figures=figures,
            settings=self._settings,
            history=self._history,
            weights=weights,
            stop=progress.stop,
        )


def _metrics(record: EvalRecord) -> dict[str, float]:
    """The columns of the metrics that are one number."""
    return {f"test_{name}": value for name, value in numbers_of(record.metrics).items()}


def _require_keepable(known: Sequence[tuple[str, Any]]) -> None:
    for name, state in known:
        if (why := callback_state.why_refused(state)) is not None:
            raise SpecError(
                f"the state_dict of callback {name} cannot be saved in a checkpoint: {why}; use numbers, text, "
                "tensors, numpy arrays, and lists, tuples, sets and dictionaries of these"
            )
