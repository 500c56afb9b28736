"""Collapse: finds runs that learned, or should have learned, and end up no better than a constant answer.

It only computes on the records of a run. The findings:

    exploded         the loss is above ``_EXPLODED`` times the larger of its start and a constant answer's loss
    not finite       the loss is NaN or infinite (with check_finite: false)
    fell back        the loss was clearly below a constant answer's, and is at that again or above it
    constant answer  late in the run, or at its end, the loss is still at a constant answer's or above
    chance           accuracy was clearly above the share of the most frequent label, and has lost most of that lead
    dead             nearly all outputs of a layer are zero for every row of the batch
    stopped          a layer's update is exactly zero, while the loss is high
    against          the rule's updates together raise the loss: dominance is below 0, while the loss is high
    altered          a feedback matrix that is fixed has changed in a layer's memory
    misaligned       a layer's update once had the gradient's direction and now has none of it, while the loss is high

Step figures are means over ``_WINDOW`` steps, so that one odd batch is not a finding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain

from distfa.core.base.model import ONE_LAYER, SEVERAL_LAYERS
from distfa.core.books.probe import LayerAlignment, ProbeRecord
from distfa.core.books.records import EvalRecord, Record, StepRecord
from distfa.core.rules.base import Rule
from distfa.data import Dataset
from distfa.intake.start import MOST_RENEWED
from distfa.run.constant_answer import constant_loss, label_shares

CONDITION, NOTHING = "condition", "nothing to learn"
BEFOREHAND = (CONDITION, NOTHING)  # what is known before the run begins
_WINDOW = 20  # steps
_EXPLODED = 20.0
_LEARNED, _BACK, _WORSE = 0.9, 0.98, 1.1  # times the loss of a constant answer
_LATE_STEPS, _LATE_SHARE = 200, 1 / 3  # before both no run is judged for not having learned
_LOST = 0.8  # of the lead that accuracy had over chance
_CLEARLY, _SIGMAS = 0.02, 5.0  # above chance, and by this many standard errors
_HIGH = 0.5  # times the loss of a constant answer: below it, small gradients are a success
_DISTRUST = "do not trust anything after the previous probe; look for code that writes to it, and test the memory"
_WAS_ALIGNED, _ALIGNED = 0.1, 0.02  # cosines
_ACTIVE = 0.01  # share of a layer's outputs
# the findings that feedback that has aged can cause
_AGED = frozenset({"fell back", "constant answer", "chance", "against", "misaligned"})
_USUAL = {"sgd": 1e-2, "adam": 1e-3, "adamw": 1e-3}  # rates that most networks bear
_FAR_ABOVE = 10.0  # times a usual rate: from there on a third of it would be no better
_REVIVE = "put a normalisation (BatchNorm, LayerNorm) before its activation, or use LeakyReLU"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that a run must say before it ends.

    Attributes:
        finding: Its name, as in the table above; ``condition`` for a setting that cannot go well,
            ``nothing to learn`` for data in which every answer is the same.
        step: Where it was seen.
        text: A sentence with the figures.
        advice: What to try.
        layer: Which layer; None for the whole network.
    """

    finding: str
    step: int
    text: str
    advice: str
    layer: int | None = None

    def __str__(self) -> str:
        where = f"layer {self.layer}, " if self.layer else ""
        when = f"{where}step {self.step}: " if self.finding not in BEFOREHAND else ""
        return f"{when}{self.text}; {self.advice}"


def of_settings(rule: Rule) -> list[Finding]:
    """Findings that are known before the run begins."""
    if len(rule.network) == 1:
        return [Finding(finding=CONDITION, step=0, text=ONE_LAYER, advice=SEVERAL_LAYERS)]
    said = rule.condition()
    return [] if said is None else [Finding(finding=CONDITION, step=0, text=said[0], advice=said[1])]


def build_watcher(loss: str, dataset: Dataset, *, steps: int, lr: float, rule: Rule) -> Watcher:
    """A watcher for a run on a data set."""
    targets = dataset.train_y
    return Watcher(
        steps=steps,
        lr=lr,
        optimizer=rule.recipe.optimizer.name,
        positions=dataset.positions,
        constant=constant_loss(loss, targets, rule.network.outputs) or None,  # 0: there is nothing to be better than
        chance=float(label_shares(targets).max()) if dataset.classification else None,
        follows_gradient=not rule.reads_labels,
        renewal=_renewal(rule),
        frozen=frozenset(n for n, layer in enumerate(rule.network.layers, start=1) if not layer.trainable),
    )


def lower_rate(lr: float, optimizer: str) -> float:
    """A rate to try after one that was too high: a third of it, or a usual one if it was far above those."""
    usual = _USUAL[optimizer]
    return usual if lr > _FAR_ABOVE * usual else lr / 3


def _renewal(rule: Rule) -> str:
    """The advice if feedback has aged; empty for a run whose feedback cannot be renewed."""
    if (
        rule.recipe.private is not None
        or not rule.takes_renewal
        or rule.recipe.feedback.rank is not None
        or rule.network.outputs > MOST_RENEWED
    ):
        return ""
    every, more = rule.recipe.feedback.renew.every or 100, " more often" if rule.recipe.feedback.renew.on else ""
    return f"feedback has aged: renew it{more} (feedback.renew.every {max(1, every // 2)})"


@dataclass(kw_only=True)
class WatcherState:
    """The figures that a watcher keeps from the records so far; plain figures, so that a checkpoint can hold it.

    Attributes:
        window: The last steps.
        first: Loss of the first step.
        least: The smallest mean loss of a window.
        best: The best accuracy and its step, for training and for evaluations.
        peak: The largest cosine, by layer.
        low: Probes in a row without alignment, by layer.
        said: The findings that were reported, with their layers.
    """

    window: list[StepRecord] = field(default_factory=list)
    first: float = math.nan
    least: float = math.inf
    best: dict[str, tuple[float, int]] = field(default_factory=dict)
    peak: dict[int, float] = field(default_factory=dict)
    low: dict[int, int] = field(default_factory=dict)
    said: list[tuple[str, int | None]] = field(default_factory=list)


class Watcher:
    """Looks at the records of a run as they come.

    Args:
        steps: Updates the run will make.
        lr: The learning rate, for the advice.
        optimizer: Its optimizer, for the same.
        positions: Labels per row.
        constant: ``constant_loss``.
        chance: Share of the most frequent label; None for float targets.
        follows_gradient: Whether the rule's updates should be near the gradient (those of drtp should not).
        renewal: What to try if feedback has aged; empty if the rule offers nothing.
        frozen: Layers of which nothing is trained.
    """

    def __init__(
        self,
        *,
        steps: int,
        lr: float,
        constant: float | None,
        chance: float | None,
        follows_gradient: bool = True,
        renewal: str = "",
        positions: int = 1,
        optimizer: str = "adam",
        frozen: frozenset[int] = frozenset(),
    ) -> None:
        self._frozen = frozen
        self._positions = positions
        self._steps, self._constant, self._chance = steps, constant, chance
        self._follows_gradient, self._renewal = follows_gradient, renewal
        self._rate = (
            f"try a lower rate (optimizer.lr {lower_rate(lr, optimizer):.1g} or less) or optimizer.warmup_steps"
        )
        self.seen = WatcherState()

    def add(self, record: Record) -> list[Finding]:
        """The new findings with this record; every finding is reported once."""
        found: Iterator[Finding] = iter(())
        if isinstance(record, StepRecord) and record.rows:
            found = self._step(record)
        elif isinstance(record, EvalRecord):
            found = self._accuracy("test", record.step, record.correct, record.rows)
        elif isinstance(record, ProbeRecord):
            found = chain(self._together(record), *(self._layer(record, layer) for layer in record.layers))
        return self._new(found)

    @property
    def exploded(self) -> bool:
        """Whether the last steps' loss is that of an exploded run."""
        usual = max(self.seen.first, self._constant or 0.0)
        return bool(self.seen.window) and min(row.loss for row in self.seen.window[-3:]) > _EXPLODED * usual

    def finish(self) -> list[Finding]:
        """The findings that are known only at the end of the run."""
        return self._new(self._at_the_end())

    def _new(self, found: Iterator[Finding]) -> list[Finding]:
        fresh = [finding for finding in found if (finding.finding, finding.layer) not in self.seen.said]
        self.seen.said += [(finding.finding, finding.layer) for finding in fresh]
        return fresh

    def _step(self, record: StepRecord) -> Iterator[Finding]:
        if not math.isfinite(record.loss):
            yield self._finding("not finite", record.step, f"the loss is {record.loss}")
            return
        if math.isnan(self.seen.first):
            self.seen.first = record.loss
        self.seen.window = [*self.seen.window, record][-_WINDOW:]
        loss = self._loss
        if self.exploded:
            yield self._finding(
                "exploded", record.step, f"the loss is {record.loss:.3g}; at the start it was {self.seen.first:.3g}"
            )
        if len(self.seen.window) < _WINDOW:
            return
        self.seen.least = min(self.seen.least, loss)
        if self._chance is not None:
            correct, rows = (sum(getattr(row, name) for row in self.seen.window) for name in ("correct", "rows"))
            yield from self._accuracy("training", record.step, correct, rows)
        if self._constant is None:
            return
        if self.seen.least < _LEARNED * self._constant and loss >= _BACK * self._constant:
            yield self._finding(
                "fell back",
                record.step,
                f"the training loss is back at {loss:.3g}, after it had been {self.seen.least:.3g}; a constant "
                f"guess has {self._constant:.3g}",
            )
        late = record.step >= max(_LATE_STEPS, _LATE_SHARE * self._steps)
        if late and self.seen.least >= _LEARNED * self._constant and loss > _WORSE * self._constant:
            yield self._not_learned(record.step)

    def _at_the_end(self) -> Iterator[Finding]:
        if self._constant is None or len(self.seen.window) < _WINDOW or self.seen.least < _LEARNED * self._constant:
            return
        if self._loss >= _BACK * self._constant:
            yield self._not_learned(self.seen.window[-1].step)

    def _not_learned(self, step: int) -> Finding:
        text = f"the training loss is {self._loss:.3g}, no better than the {self._constant:.3g} of a constant answer"
        return self._finding("constant answer", step, text)

    def _accuracy(self, which: str, step: int, correct: int, rows: int) -> Iterator[Finding]:
        if self._chance is None:
            return
        rows *= self._positions
        accuracy = correct / rows
        best, at = self.seen.best.setdefault(which, (accuracy, step))
        if accuracy > best:
            self.seen.best[which] = accuracy, step
        error = math.sqrt(self._chance * (1 - self._chance) / rows)
        above = best - self._chance
        if above > max(_CLEARLY, _SIGMAS * error) and accuracy - self._chance < (1 - _LOST) * above:
            yield self._finding(
                "chance",
                step,
                f"{which} accuracy is {accuracy:.1%}, near the {self._chance:.1%} of always giving the same "
                f"answer; at step {at} it was {best:.1%}",
            )

    def _together(self, record: ProbeRecord) -> Iterator[Finding]:
        if not (self._follows_gradient and self._loss_is_high and record.dominance < 0):
            return
        text = f"the updates of all layers together raise the loss: dominance is {record.dominance:.2f}"
        yield self._finding("against", record.step, text)

    def _layer(self, record: ProbeRecord, layer: LayerAlignment) -> Iterator[Finding]:
        index, hidden = layer.layer, layer.layer < len(record.layers)
        if layer.altered:
            text = f"its feedback ({', '.join(layer.altered)}) was altered in memory, which no part of a run does"
            yield replace(self._finding("altered", record.step, text, index), advice=_DISTRUST)
        if hidden and layer.active is not None and layer.active < _ACTIVE:
            text = f"only {layer.active:.1%} of its outputs are nonzero for any row of the batch: the layer is dead"
            yield self._finding("dead", record.step, text, index)
        if not self._loss_is_high:
            self.seen.low[index] = 0
            return
        if not layer.used:
            return
        learns = index not in self._frozen
        if hidden and learns and not layer.update_norm and record.layers[-1].update_norm:
            yield self._finding("stopped", record.step, "its update is zero, so it no longer learns", index)
            return
        peak = self.seen.peak[index] = max(self.seen.peak.get(index, 0.0), layer.cosine)
        low = self._follows_gradient and peak >= _WAS_ALIGNED and layer.cosine < min(_ALIGNED, 0.1 * peak)
        self.seen.low[index] = self.seen.low.get(index, 0) + 1 if low else 0
        if self.seen.low[index] == 2:
            way = "points against the gradient" if layer.cosine < -_ALIGNED else "is unrelated to the gradient"
            text = f"its update {way}: cosine {layer.cosine:.3f}, at best {peak:.2f}"
            yield self._finding("misaligned", record.step, text, index)

    @property
    def _loss(self) -> float:
        rows = sum(record.rows for record in self.seen.window)
        return sum(record.loss * record.rows for record in self.seen.window) / rows

    @property
    def _loss_is_high(self) -> bool:
        usual = self._constant or self.seen.first
        return bool(self.seen.window) and self._loss >= _HIGH * usual

    def _finding(self, kind: str, step: int, text: str, layer: int | None = None) -> Finding:
        first = self._renewal if kind in _AGED else _REVIVE if kind == "dead" else ""
        advice = f"{first}, or {self._rate}" if first else self._rate
        return Finding(finding=kind, step=step, text=text, advice=advice, layer=layer)
