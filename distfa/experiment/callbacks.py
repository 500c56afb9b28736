"""What a user may do while a run goes on: look at it, keep weights, stop it.

on_start         the layers are ready
on_step          an update was made
on_epoch         a pass over the training set has ended, and its evaluation, if there is one
on_evaluation    the test set was evaluated
on_checkpoint    all weights are available, between two steps: after every evaluation but the last, and
                 every ``checkpoint.every`` steps
on_end           the run has ended well; ``weights`` are the trained ones
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from distfa.core.records import Cut, EvalRecord, StepRecord
from distfa.errors import SpecError
from distfa.experiment.history import COLUMNS, History
from distfa.experiment.observing import Progress
from distfa.words import counted, hint


@dataclass(frozen=True, kw_only=True)
class At:
    """Where a run is.

    Attributes:
        step: Updates made so far.
        steps: Updates that the run will make.
        epoch: Counted from 1.
        figures: ``train_loss``, ``train_accuracy``, ``test_loss``, ``test_accuracy``, those that are known; for the
            training set over the epoch so far.
        history: The epochs so far.
        weights: Gives all parameters and buffers under the model's keys; only in ``on_checkpoint`` and ``on_end``.
        stop: Ends the run at its next checkpoint; call it with the reason, in words.
    """

    step: int
    steps: int
    epoch: int
    figures: Mapping[str, float | None]
    history: History
    weights: Callable[[], dict[str, Tensor]]
    stop: Callable[[str], None]


class Callback:
    """Does nothing; subclass it and override the methods you need."""

    def on_start(self, at: At) -> None:
        """The layers are ready."""

    def on_step(self, at: At) -> None:
        """An update was made."""

    def on_epoch(self, at: At) -> None:
        """A pass over the training set has ended, with its evaluation."""

    def on_evaluation(self, at: At) -> None:
        """The test set was evaluated."""

    def on_checkpoint(self, at: At) -> None:
        """All weights are available now."""

    def on_end(self, at: At) -> None:
        """The run has ended well."""


@dataclass(kw_only=True)
class BestWeights(Callback):
    """Keeps the weights of the best evaluation; ``fit`` puts them into the model at the end.

    Attributes:
        monitor: A column of the history: ``test_loss``, ``test_accuracy``, ``train_loss``, ...
        best: The best figure so far.
        step: The step after which it was reached.
        weights: The weights after that step.
    """

    monitor: str = "test_loss"
    best: float | None = None
    step: int = 0
    weights: dict[str, Tensor] | None = field(default=None, repr=False)
    _wanted: int = field(default=-1, repr=False)

    def __post_init__(self) -> None:
        self.monitor = column(self.monitor)

    def on_start(self, at: At) -> None:
        """Forget an earlier fit."""
        self.best, self.weights, self._wanted = None, None, -1

    def on_epoch(self, at: At) -> None:
        """Note whether this epoch was the best."""
        figure = figure_of(at, self.monitor)
        if self.best is None or better(figure, self.best, self.monitor):
            self.best, self._wanted = figure, at.step

    def on_checkpoint(self, at: At) -> None:
        """Take the weights."""
        if at.step == self._wanted:
            self._take(at)

    def on_end(self, at: At) -> None:
        """Take the last weights if they are the best."""
        if at.step == self._wanted and self.step != at.step:
            self._take(at)

    def _take(self, at: At) -> None:
        self.step, self.weights = at.step, {name: value.clone() for name, value in at.weights().items()}


@dataclass(kw_only=True)
class EarlyStopping(BestWeights):
    """Ends a run that no longer gets better, and gives the model its best weights.

    Attributes:
        patience: How many evaluations without a better figure end the run.
        min_delta: How much better a figure must be to count as better.
        restore_best: Whether the model gets the best weights instead of the last ones.
    """

    patience: int = 3
    min_delta: float = 0.0
    restore_best: bool = True
    _since: int = field(default=0, repr=False)
    _mark: float | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patience < 1:
            raise SpecError(f"patience is {self.patience}; it must be at least 1 evaluation")

    def on_start(self, at: At) -> None:
        """Begin to count."""
        super().on_start(at)
        self._since, self._mark = 0, None

    def on_epoch(self, at: At) -> None:
        """Count, and stop the run when patience is over."""
        super().on_epoch(at)
        figure = figure_of(at, self.monitor)
        if self._mark is None or better(figure, self._mark, self.monitor, by=self.min_delta):
            self._mark, self._since = figure, 0
            return
        self._since += 1
        if self._since >= self.patience:
            at.stop(f"{self.monitor} has not been better than {self._mark:.4g} for {counted(self._since, 'epoch')}")

    def on_end(self, at: At) -> None:
        """Take the best weights, if they are wanted."""
        super().on_end(at)
        if not self.restore_best:
            self.weights = None


class Caller:
    """Turns the progress of a run into calls of callbacks and rows of the history."""

    def __init__(
        self,
        callbacks: Sequence[Callback],
        history: History,
        *,
        evaluates_every: int | None,
        observer: Callable[[Progress], None] | None = None,
    ) -> None:
        self._callbacks, self._history, self._every = callbacks, history, evaluates_every
        self._observer = observer
        self._first_epoch = history.rows[-1]["epoch"] if history.rows else 0
        self._last: Progress | None = None

    def __call__(self, progress: Progress) -> None:
        """One record of a run."""
        self._last, record = progress, progress.record
        if record is None:
            self._tell("on_start", progress)
        elif isinstance(record, StepRecord):
            self._tell("on_step", progress)
            last = record.step + 1 == progress.steps
            if last or (record.step + 1) % progress.steps_per_epoch == 0:
                self._add(progress, record)
                if not (self._every and (last or (record.epoch + 1) % self._every == 0)):
                    self._tell("on_epoch", progress)
        elif isinstance(record, EvalRecord):
            self._history.rows[-1] |= {
                "seconds": round(record.seconds, 3),
                "test_loss": progress.tally.test_loss,
                "test_accuracy": progress.tally.test_accuracy,
            }
            self._tell("on_evaluation", progress)
            self._tell("on_epoch", progress)
        elif isinstance(record, Cut):
            self._tell("on_checkpoint", progress)
        if self._observer is not None:
            self._observer(progress)

    def ended(self, weights: dict[str, Tensor]) -> None:
        """The run has ended well."""
        if self._last is not None:
            for callback in self._callbacks:
                callback.on_end(self._at(self._last, lambda: weights))

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
        return At(
            step=tally.steps,
            steps=progress.steps,
            epoch=max(tally.epoch, 0) + 1,
            figures=figures,
            history=self._history,
            weights=weights,
            stop=progress.stop,
        )


def column(monitor: str) -> str:
    """A column of the history, by its name or by another common one: ``val_loss`` is ``test_loss``.

    Raises:
        SpecError: There is no such column.
    """
    name = (
        monitor.replace("val_", "test_").replace("valid_", "test_").removesuffix("uracy").replace("_acc", "_accuracy")
    )
    name = {"loss": "test_loss", "acc": "test_accuracy"}.get(name, name)
    if name not in COLUMNS[3:]:
        raise SpecError(f"monitor is {monitor!r}; it must be one of {', '.join(COLUMNS[3:])}{hint(name, COLUMNS[3:])}")
    return name


def figure_of(at: At, name: str) -> float:
    """The figure that a callback watches.

    Raises:
        SpecError: The run does not have it.
    """
    found = at.figures.get(name)
    if found is None:
        why = "no test data were given" if name == "test_loss" else "a regression, or a run without test data, has none"
        raise SpecError(f"{name} is watched, but the run does not have it ({why}); watch train_loss, or give test data")
    return float(found)


def better(a: float, b: float, name: str, *, by: float = 0.0) -> bool:
    """Whether a is better than b: greater for accuracies, smaller for losses."""
    return a > b + by if name.endswith("accuracy") else a < b - by


def require_callbacks(callbacks: Any) -> list[Callback]:
    """The callbacks as a list, from one or several.

    Raises:
        SpecError: Something else was given.
    """
    several = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or ())
    for given in several:
        if not isinstance(given, Callback):
            raise SpecError(
                f"callbacks holds a {type(given).__name__}; it must hold distfa.Callback objects: "
                "EarlyStopping(), not EarlyStopping"
            )
    return several
