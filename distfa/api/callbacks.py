"""Callbacks, with which a user can observe a run as it trains, keep weights, or stop it.

on_start         the layers are ready
on_step          an update was made
on_epoch         a pass over the training set has ended, and its evaluation, if there is one
on_evaluation    the test set was evaluated
on_checkpoint    all weights are available, between two steps: after every evaluation but the last, and
                 every ``checkpoint.every`` steps
on_end           the run has ended well; ``weights`` are the last ones

Whatever a callback needs in order to continue goes into its ``state_dict``, which every checkpoint includes. When a run
is resumed or recovers from a failure, ``load_state_dict`` receives it. ``on_start`` is called before that, but only if
the run is resumed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor

from distfa.api.history import COLUMNS, METRICS_OF_ROW, History
from distfa.errors import SpecError
from distfa.run.observing import Choice
from distfa.text.words import hint, pluralize


@dataclass(frozen=True, kw_only=True)
class At:
    """Where a run is.

    Attributes:
        step: Updates made so far.
        steps: Updates that the run will make.
        epoch: Counted from 1.
        figures: ``train_loss``, ``train_accuracy``, ``test_loss``, ``test_accuracy``, those that are known; for the
            training set over the epoch so far.
        settings: The keys of the spec, dotted, with their values.
        history: The epochs so far.
        weights: Gives all parameters and buffers under the model's keys; only in ``on_checkpoint`` and ``on_end``.
        stop: Ends the run at its next checkpoint; call it with the reason, in words.
    """

    step: int
    steps: int
    epoch: int
    figures: Mapping[str, float | None]
    settings: Mapping[str, Any]
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

    def state_dict(self) -> dict[str, Any]:
        """The state it needs in order to continue: numbers, text, tensors, arrays, and collections of these."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` gave at the checkpoint from which the run resumes; later steps come again."""


@dataclass(kw_only=True)
class BestWeights(Callback):
    """Keeps the weights of the best evaluation; the run ends with them, and ``fit`` puts them into the model.

    Attributes:
        monitor: A column of the history: ``test_loss``, ``test_accuracy``, ``train_loss``, ``test_top5`` of the metric
            top5, ...
        mode: Whether a smaller (``min``) or a greater figure (``max``) is better; auto: smaller for losses and errors
            (``mae``, ``rmse``), greater for all else.
        best: The best figure so far; one that is not a number is never the best.
        step: The step after which it was reached.
        weights: The weights after that step.
    """

    monitor: str = "test_loss"
    mode: Literal["auto", "min", "max"] = "auto"
    best: float | None = None
    step: int = 0
    weights: dict[str, Tensor] | None = field(default=None, repr=False)
    _row: dict[str, Any] = field(default_factory=dict, repr=False)
    _wanted: int = field(default=-1, repr=False)
    _knows: ClassVar[tuple[str, ...]] = ("best", "step", "weights", "_row", "_wanted")

    def __post_init__(self) -> None:
        self.monitor = column(self.monitor)

    @property
    def _greater(self) -> bool:
        """Whether a greater figure is better."""
        smaller = self.monitor.endswith(("loss", "mae", "rmse", "error"))
        return self.mode == "max" or (self.mode == "auto" and not smaller)

    def on_start(self, at: At) -> None:
        """Forget an earlier fit."""
        self.best, self.step, self.weights, self._row, self._wanted = None, 0, None, {}, -1

    def on_epoch(self, at: At) -> None:
        """Note whether this epoch was the best, if it has the figure: not every epoch ends with an evaluation.

        Raises:
            SpecError: The figure is that of a metric that gives several numbers.
        """
        row = at.history.rows[-1]
        figure, metric = row.get(self.monitor), self.monitor.removeprefix("test_")
        if figure is None and metric in row.get(METRICS_OF_ROW, {}):
            raise SpecError(
                f"{type(self).__name__} monitors {self.monitor}, but metric {metric} gives several numbers; monitor "
                "one that gives a single number, such as their mean"
            )
        if figure is not None and is_better(figure, self.best, greater=self._greater):
            self.best, self._row, self._wanted = figure, dict(row), at.step

    def on_checkpoint(self, at: At) -> None:
        """Take the weights."""
        if at.step == self._wanted:
            self._take(at)

    def choose(self, at: At) -> Choice | None:
        """The best weights, at the end of a run; None if it has had no figure."""
        if at.step == self._wanted and self.step != at.step:
            self._take(at)
        if self.weights is None:
            return None
        figures = {name: self._row.get(name) for name in COLUMNS[3:]}
        figures[METRICS_OF_ROW] = self._row.get(METRICS_OF_ROW, {})
        about = {"monitor": self.monitor, "figure": self.best, "step": self.step, "epoch": self._row["epoch"]}
        return Choice(weights=self.weights, figures=figures, about=about)

    def state_dict(self) -> dict[str, Any]:
        """All but its settings."""
        return {name: getattr(self, name) for name in self._knows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Know again the best figure and its weights."""
        for name in self._knows:
            setattr(self, name, state[name])

    def require(self, columns: Collection[str]) -> None:
        """Refuse to watch a figure that the run will not have.

        Raises:
            SpecError: It will not have it.
        """
        if self.monitor in columns:
            return
        if self.monitor.startswith("test") and "test_loss" not in columns:
            why = "it has no test data"
        elif self.monitor in COLUMNS:
            why = "it learns quantities, which have no accuracy"
        else:
            why = f"its columns are {', '.join(columns)}{hint(self.monitor, columns)}"
        other = self.monitor.replace("test", "train") if "test_loss" not in columns else "test_loss"
        other = other if other in columns else "train_loss"
        raise SpecError(
            f"{type(self).__name__} monitors {self.monitor}, which the run does not have: {why}; monitor another: "
            f"monitor={other!r}"
        )

    def _take(self, at: At) -> None:
        self.step, self.weights = at.step, {name: value.clone() for name, value in at.weights().items()}


@dataclass(kw_only=True)
class EarlyStopping(BestWeights):
    """Ends a run that no longer gets better, and gives the model its best weights.

    Attributes:
        patience: How many evaluations, or epochs for a figure of the training set, without a better figure end the run.
        min_delta: How much better a figure must be to count as better.
        restore_best: Whether the run ends with the best weights instead of the last ones.
    """

    patience: int = 3
    min_delta: float = 0.0
    restore_best: bool = True
    _since: int = field(default=0, repr=False)
    _mark: float | None = field(default=None, repr=False)
    _knows: ClassVar[tuple[str, ...]] = (*BestWeights._knows, "_since", "_mark")

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
        figure = at.history.rows[-1].get(self.monitor)
        if figure is None:
            return
        if is_better(figure, self._mark, greater=self._greater, by=self.min_delta):
            self._mark, self._since = figure, 0
            return
        self._since += 1
        if self._since >= self.patience:
            what = pluralize(self._since, "epoch" if self.monitor.startswith("train") else "evaluation")
            than = "a number" if self._mark is None else f"better than {self._mark:.4g}"
            at.stop(f"{self.monitor} has not been {than} for {what}")

    def choose(self, at: At) -> Choice | None:
        """The best weights, if they are wanted."""
        if self.restore_best:
            return super().choose(at)
        self.weights = None
        return None


def column(monitor: str) -> str:
    """A column of the history, by its name or by another common one: ``val_loss`` is ``test_loss``.

    Raises:
        SpecError: There is no such column.
    """
    name = (
        monitor.replace("val_", "test_").replace("valid_", "test_").removesuffix("uracy").replace("_acc", "_accuracy")
    )
    name = {"loss": "test_loss", "acc": "test_accuracy"}.get(name, name)
    if name not in COLUMNS[3:] and not name.startswith("test_"):  # whether there is such a metric is known in fit
        raise SpecError(f"monitor is {monitor!r}; it must be one of {', '.join(COLUMNS[3:])}{hint(name, COLUMNS[3:])}")
    return name


def is_better(a: float, b: float | None, *, greater: bool, by: float = 0.0) -> bool:
    """Whether a is better than b: greater, or smaller; a number is better than none."""
    if math.isnan(a):
        return False
    if b is None or math.isnan(b):
        return True
    return a > b + by if greater else a < b - by


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
