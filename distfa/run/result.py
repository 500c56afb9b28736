"""The result of a run: the figures a person or a program reads at its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from distfa.codecs import Codec
from distfa.codecs.compressed import Compressed
from distfa.core.base.metrics import in_words
from distfa.core.base.model import NO_RULE
from distfa.core.base.recipe import Recipe
from distfa.core.books import digest, ledger
from distfa.core.books.digest import DigestRecord
from distfa.core.books.ledger import LedgerRecord
from distfa.core.books.probe import ProbeRecord
from distfa.core.books.records import AuditRecord, EvalRecord, Record, RenewalRecord, StepRecord
from distfa.run.collapse import Finding
from distfa.text.words import pluralize


@dataclass(frozen=True, kw_only=True, repr=False)
class Result:
    """The result of a run.

    Attributes:
        run_dir: Where the run is kept.
        engine: ``ray`` or ``serial``.
        rule: Feedback rule.
        init: Initialisation.
        start: How feedback started, in words: ``init``, and its rank where many outputs made it ``aligned by rank r``.
        layer_sizes: (d_0, ..., d_L): numbers in one sample of the input and of every layer's output.
        model: What was trained, in words: the sizes of plain layers, or the name of the model and its number of layers.
        epochs: Passes over the training set, including one that max_steps cut short.
        steps: Number of updates.
        train_loss: Mean loss of the rows of the last epoch, each before its update.
        train_accuracy: Accuracy of the same rows; None for float targets.
        test_loss: Test loss after the last step; None without a test set.
        test_accuracy: Test accuracy after the last step; None without a test set, and for float targets.
        samples_per_second: Training rows divided by training time, without evaluation and start.
        wall_seconds: Time of the whole run.
        startup_seconds: Time until the first step.
        bytes: Training traffic: ``boundaries``, one row each, and ``total``; ``bp_payload`` is what bp would have sent,
            ``inside`` what went from layer to layer inside a worker; rows with ``shared`` are errors that crossed once
            for these layers.
            Of a run in one process payloads are computed, and None is what is not known there.
        schedule: ``sync`` or ``async``.
        ledger: How many entries the conservation ledger has, how many signals were compared by digest, how many of
            these broke the law, and the first that did.
        metrics: The figures of the spec's metrics on the test set: one number, a list with one for each class, or named
            ones.
        alignment: The last probe; None without one.
        renewals: How often feedback was renewed, under ``feedback.renew``.
        stopped: Why a callback ended it early; None if none did.
        best: Of a run that ends with its best weights (``BestWeights``): ``monitor``, its ``figure``, the ``step`` and
            ``epoch`` they are from, and ``last``, the figures of the last weights. Losses and accuracies above are
            then those of the best weights. None for a run that ends with its last weights.
        findings: What a reader must not miss: signs of collapse, settings that cannot go well (collapse.py).
        exploded: Whether the loss was that of an exploded run at the end, or no number.
        recoveries: How often, where and why the run went back to a checkpoint.
        facts: What else the engine has to say.
        privacy: Of a run with ``privacy``: whether it is ``private``, its ``epsilon`` and ``delta``, and the ``claim``
            in words. None for any other.
    """

    run_dir: str
    engine: str
    rule: str
    init: str
    layer_sizes: tuple[int, ...]
    model: str
    epochs: int
    steps: int
    train_loss: float
    train_accuracy: float | None
    test_loss: float | None
    test_accuracy: float | None
    samples_per_second: float
    wall_seconds: float
    startup_seconds: float
    bytes: dict[str, Any]
    schedule: str = "sync"
    start: str = ""
    ledger: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    alignment: dict[str, Any] | None = None
    renewals: int = 0
    stopped: str | None = None
    best: dict[str, Any] | None = None
    findings: list[dict[str, Any]] = field(default_factory=list)
    exploded: bool = False
    recoveries: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    privacy: dict[str, Any] | None = None

    def __repr__(self) -> str:
        """A few lines for a person, also in a notebook; ``as_dict`` has everything."""
        return summary(self)

    def as_dict(self) -> dict[str, Any]:
        """All figures as a dictionary for JSON."""
        return asdict(self)


def summary(result: Result) -> str:
    """The result of a run in a few lines."""
    how = start_line(result)
    lines = [f"{result.rule} ({how}), {result.model}, engine {result.engine}"]
    for name, loss, accuracy in (
        ("test", result.test_loss, result.test_accuracy),
        ("train", result.train_loss, result.train_accuracy),
    ):
        if loss is not None:
            lines.append(f"{name} loss {loss:.4f}" + ("" if accuracy is None else f", accuracy {accuracy:.2%}"))
    lines += [in_words(f"test {name}", figure) for name, figure in result.metrics.items()]
    epochs = pluralize(result.epochs, "epoch")
    lines.append(
        f"{result.steps:,} steps, {epochs}, {result.samples_per_second:,.0f} samples/s, "
        f"{result.wall_seconds:.1f} s of which {result.startup_seconds:.1f} s to start"
    )
    if result.privacy:
        lines.append(result.privacy["claim"])
    if result.stopped:
        lines.append(f"stopped early: {result.stopped}")
    if result.best:
        lines.append(f"weights: {best_in_words(result.best)}")
    lines += [f"{finding['finding']}: {Finding(**finding)}" for finding in result.findings]
    return "\n".join([*lines, f"run directory: {result.run_dir}"])


def best_in_words(best: Mapping[str, Any]) -> str:
    """Which weights a run ended with (``Result.best``)."""
    return f"the best by {best['monitor']} ({best['figure']:.4f}), from step {best['step']:,}"


def start_line(result: Result) -> str:
    """How it started and in which order it was trained, as the first line of a result says it."""
    if len(result.layer_sizes) == 2:  # one layer, which no feedback reaches
        return NO_RULE
    start = result.start or result.init
    return start if result.schedule == "sync" else f"{start}, {result.schedule}"


@dataclass(kw_only=True)
class Tally:
    """Adds up records as they come; plain figures, so that a checkpoint can hold it.

    Attributes:
        classification: Whether rows can be right or wrong.
        positions: Labels of a sample.
        steps: Updates so far.
        train_rows: Rows so far.
        train_seconds: Time of training so far, without evaluation.
        last_seconds: When the last record ended, in seconds since training began.
        epoch: The current epoch, counted from 0; the next three figures are of its steps so far.
        epoch_rows: Number of rows.
        epoch_loss: Sum of the losses of these rows.
        epoch_correct: How many of these rows, or positions, were correct.
        test: The last evaluation.
        probe: The last probe.
        audit: The outputs of the trained layers at the end.
        entries: Entries in the ledger.
        renewals: How often feedback was renewed, under ``feedback.renew``.
        compared: Signals that were compared by digest.
        violations: The records that broke the law.
        findings: Signs of collapse.
    """

    classification: bool
    positions: int = 1
    steps: int = 0
    train_rows: int = 0
    train_seconds: float = 0.0
    last_seconds: float = 0.0
    epoch: int = -1
    epoch_rows: int = 0
    epoch_loss: float = 0.0
    epoch_correct: int = 0
    test: EvalRecord | None = None
    probe: ProbeRecord | None = None
    audit: AuditRecord | None = None
    entries: int = 0
    renewals: int = 0
    compared: int = 0
    violations: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """Add one record."""
        if isinstance(record, LedgerRecord):
            self.entries += 1
            self._judge(ledger.describe_violation(record))
        elif isinstance(record, DigestRecord):
            self.compared += 1
            self._judge(digest.describe_difference(record))
        elif isinstance(record, ProbeRecord):
            self.probe = record
        elif isinstance(record, AuditRecord):
            self.audit = record
        elif isinstance(record, RenewalRecord):
            self.renewals += 1
        elif isinstance(record, EvalRecord):
            self.test, self.last_seconds = record, record.seconds
        elif isinstance(record, StepRecord):
            self._step(record)

    def _step(self, record: StepRecord) -> None:
        if record.epoch != self.epoch:
            self.epoch, self.epoch_rows, self.epoch_loss, self.epoch_correct = record.epoch, 0, 0.0, 0
        self.epoch_rows += record.rows
        self.epoch_loss += record.loss * record.rows
        self.epoch_correct += record.correct
        self.train_rows += record.rows
        self.train_seconds += record.seconds - self.last_seconds
        self.steps += 1
        self.last_seconds = record.seconds

    def _judge(self, broken: str | None) -> None:
        if broken is not None:
            self.violations.append(broken)

    @property
    def samples_per_second(self) -> float:
        """Training rows divided by training time so far."""
        return self.train_rows / self.train_seconds if self.train_seconds else 0.0

    @property
    def train_loss(self) -> float:
        """Mean loss of the rows of the current epoch."""
        return self.epoch_loss / self.epoch_rows if self.epoch_rows else float("nan")

    @property
    def train_accuracy(self) -> float | None:
        """Accuracy of the rows of the current epoch."""
        if not self.epoch_rows or not self.classification:
            return None
        return self.epoch_correct / (self.epoch_rows * self.positions)

    @property
    def test_loss(self) -> float | None:
        """At the last evaluation."""
        return None if self.test is None else self.test.loss

    @property
    def test_accuracy(self) -> float | None:
        """At the last evaluation."""
        if self.test is None or not self.classification:
            return None
        return self.test.correct / (self.test.rows * self.positions)


def with_total(boundaries: list[dict[str, Any]]) -> dict[str, Any]:
    """``boundaries`` and their ``total``; a figure that is None for one boundary is None in the total too."""
    keys = ("up_payload", "down_payload", "up_message", "down_message", "inside", "bp_payload")
    columns = {key: [row.get(key, 0) for row in boundaries] for key in keys}
    total = {key: None if None in column else sum(column) for key, column in columns.items()}
    return {"boundaries": boundaries, "total": total}


def name_boundary(row: Mapping[str, Any]) -> str:
    """The layers of a row of ``boundaries``: ``1-2``, or ``to 1-3`` for errors that cross once for these.

    What the replicas of a layer send each other has a row of its own: ``replicas of 2``.
    """
    if shared := row.get("shared"):
        return f"to {shared[0]}-{shared[-1]}"
    if row.get("beside"):
        return f"replicas of {row['boundary']}"
    return f"{row['boundary']}-{row['boundary'] + 1}"


def bp_payload(recipe: Recipe, boundary: int, *, rows: int, up: Codec, down: Codec, sent_up: int) -> int | None:
    """Bytes that bp would have sent across a boundary, both ways, with the same codecs for the same rows.

    This is the same in every engine. Upwards: d_l columns, as under every rule; if their length depends on the numbers,
    what the run itself has sent. Downwards: d_l columns without zeros.

    Args:
        recipe: Gives the widths.
        boundary: l.
        rows: Training rows of the whole run.
        up: Codec of activations.
        down: Codec of error messages.
        sent_up: Payload bytes the run has sent up; 0 if that is not known.

    Returns:
        None if it is not known: ``up`` makes messages of varying length and the run has sent none, or ``down``
        compresses messages.
    """
    columns, dtype = recipe.network.sizes[boundary], recipe.signal_dtype
    if rows and (isinstance(down, Compressed) or (not up.fixed_length and not sent_up)):
        return None
    activations = up.max_payload_bytes(rows, columns, dtype) if up.fixed_length else sent_up
    return activations + down.max_payload_bytes(rows, columns, dtype)
