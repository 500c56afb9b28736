"""One run of a question, on the serial engine in this process, with everything it reports."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from distfa import data
from distfa.bench import variants
from distfa.core import rules
from distfa.core.base.threads import use_threads
from distfa.core.books.ledger import LedgerRecord
from distfa.core.books.probe import ProbeRecord
from distfa.core.books.records import StepRecord
from distfa.core.serial import evaluate_layers
from distfa.data import Dataset
from distfa.errors import NonFiniteError
from distfa.intake.checks import check_run
from distfa.intake.subject import subject_for, subject_of
from distfa.lab.questions.base import QuestionOptions
from distfa.measuring.task import Task
from distfa.settings import parse_spec

INITS = ("aligned", "random")


@dataclass(kw_only=True)
class Trained:
    """The records of a run.

    Attributes:
        steps: Its steps; fewer than asked for if it diverged.
        ledger: Its entries in the ledger.
        probes: Its probes.
        train: Share of the training labels that it gives at the end.
        test: The same for the test set.
        diverged: Whether a signal or the loss was no longer finite.
    """

    steps: list[StepRecord] = field(default_factory=list)
    ledger: list[LedgerRecord] = field(default_factory=list)
    probes: list[ProbeRecord] = field(default_factory=list)
    train: float = math.nan
    test: float = math.nan
    diverged: bool = False

    @property
    def alignment(self) -> float:
        """The cosine with the true gradient, as a mean over the probes."""
        return sum(probe.cosine for probe in self.probes) / len(self.probes) if self.probes else math.nan


def dataset(asked: QuestionOptions, own: str) -> Dataset:
    """The data set that is asked for, or that of the question; for ``quick`` one that needs no file."""
    name = asked.data or ("digits" if asked.quick else own)
    return data.load(name, directory=asked.data_dir)


def rule_of(word: str) -> type[rules.Rule]:
    """The rule that a word such as dkp@50 names.

    Raises:
        SpecError: There is no rule of that name.
        UsageError: What follows the @ is not a number of steps.
    """
    return rules.RULES[parse_spec(variants.parse_variant(word)).rule]


def configurations(asked: QuestionOptions) -> Iterator[dict[str, Any]]:
    """Rule, init and seed of every run; a rule whose feedback does not depend on init has only ``aligned``."""
    for name in asked.rules:
        for init in INITS if rule_of(name).takes_init else INITS[:1]:
            for seed in range(asked.seeds):
                yield {"rule": name, "init": init, "seed": seed}


def record_training(settings: Mapping[str, Any], on: Dataset, *, model: nn.Sequential | None = None) -> Trained:
    """Train with settings of a spec.

    Args:
        settings: Keys of a spec, the rule perhaps with its renewal (dkp@50); ledger and probes are off unless they are
            set.
        on: The data set.
        model: A model to train instead of that of the spec.

    Raises:
        DistfaError: The settings cannot work.
    """
    common = {"ledger": {"every": 0}, "probe": {"every": 0}, "engine": "serial", "epochs": 1000}
    rule = variants.parse_variant(settings["rule"])
    feedback = {"feedback": {**rule.get("feedback", {}), **settings.get("feedback", {})}}
    spec = parse_spec({**common, **settings, **rule, **feedback})
    subject = subject_for(spec, on) if model is None else subject_of(model, spec, on)
    check_run(spec, subject, on)
    task = Task.on(on, spec.recipe(subject.network), subject.initial_modules(spec.init))
    with use_threads():
        return _train(task)


def _train(task: Task) -> Trained:
    trainer, found = task.trainer(), Trained()
    kept = {StepRecord: found.steps, LedgerRecord: found.ledger, ProbeRecord: found.probes}
    try:
        for record in trainer.run():
            if type(record) in kept:
                kept[type(record)].append(record)  # type: ignore[attr-defined]
    except NonFiniteError:
        found.diverged = True
        return found
    shares = [evaluate_layers(task.recipe, trainer.layers, half) for half in task.splits()]
    found.train, found.test = (half.correct / (half.rows * task.answers_per_sample) for half in shares)
    return found
