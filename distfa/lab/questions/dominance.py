"""dominance: the dominance constant against the decay of the loss, by ranges of steps."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from distfa.bench.pace import Say, paced
from distfa.core.books.probe import ProbeRecord
from distfa.core.books.records import StepRecord
from distfa.core.rules import RULES
from distfa.lab.questions.base import Answer, Question, QuestionOptions, Row, draw_dots, split_by
from distfa.lab.questions.intervals import interval, mean, mean_correlation, together
from distfa.lab.questions.training import configurations, dataset, record_training, rule_of
from distfa.pages.plots import Figure

_STEPS, _QUICK_STEPS, _LR, _EVERY, _RANGES = 400, 80, 0.02, 4, 4
_CONVERGED = 0.5  # share of the loss at the start
COLUMNS = {
    "rule": "rule",
    "init": "init",
    "least": "least dominance",
    "converged": "loss at the end / start",
    "predicted": "condition held",
    "came": "converged",
}


def _answer(asked: QuestionOptions, say: Say) -> Answer:
    on, steps = dataset(asked, QUESTION.data), _QUICK_STEPS if asked.quick else _STEPS
    raw: list[Row] = []
    failing = tuple(name for name, rule in RULES.items() if rule.reads_labels)  # drtp with ReLU fails: shown, too
    to_train = list(configurations(replace(asked, rules=tuple(dict.fromkeys((*asked.rules, *failing))))))
    say = paced(say, len(to_train))
    for about in to_train:
        settings = {**about, "max_steps": steps, "batch_size": len(on.train_x), "probe": {"every": _EVERY}}
        settings |= {"model": {"hidden": (128, 128, 128)}, "optimizer": {"name": "sgd", "lr": _LR}}
        done = record_training(settings, on)
        run = {**about, **_measure(done.steps, done.probes, diverged=done.diverged)}
        raw.append(run)
        say("{rule} {init}, seed {seed}: least dominance {least:.2f}, loss x {converged:.2g}".format(**run))
    return Answer(
        rows=[{key: run[key] for key in COLUMNS} for run in raw if run["seed"] == 0],
        columns=COLUMNS,
        verdict=verdict(raw),
        budget=f"{on.name}; hidden 128,128,128, SGD {_LR:g}, {steps} steps of the whole training set, a probe every "
        f"{_EVERY} steps, {asked.seeds} seed(s); the table shows seed 0",
        figures=[_figure(raw)],
        raw=raw,
    )


def _measure(steps: list[StepRecord], probes: list[ProbeRecord], *, diverged: bool) -> Row:
    """The least dominance, and by ranges of steps the fall that dL/dt = -sum a predicts and the fall that came."""
    losses = [record.loss for record in steps]
    size = max(2, len(losses) // _RANGES)
    window = max(1, size // 4)
    points: list[dict[str, Any]] = []
    for start in range(0, len(losses) - size + 1, size):
        inside = [probe for probe in probes if start <= probe.step < start + size]
        before, after = mean(losses[start : start + window]), mean(losses[start + size - window : start + size])
        if inside and min(before, after) > 0:
            points.append(
                {
                    "from": start,
                    "dominance": mean([probe.dominance for probe in inside]),
                    "expected": _LR * mean([probe.loss_fall for probe in inside]) / mean([before, after]),
                    "fell": math.log(before / after) / (size - window),
                }
            )
    end = math.inf if diverged else mean(losses[-window:]) / losses[0]
    least = min(probe.dominance for probe in probes)
    return {"least": least, "converged": end, "predicted": least > 0, "came": end < _CONVERGED, "ranges": points}


def verdict(raw: list[Row]) -> str:
    """Earned within configurations: within a run over its ranges of steps, with seeds as independent units.

    Ranges of one run are no independent units, and configurations differ in both figures for reasons of their own.
    """
    held = [run for run in raw if run["predicted"]]
    broke, missed = [run for run in raw if not run["predicted"]], [run for run in held if not run["came"]]
    said = (
        f"Dominance stayed above 0 at every probe in {len(held)} of {len(raw)} runs; {len(held) - len(missed)} of "
        f"these at least halved their loss. "
    )
    if broke:
        halved = sum(run["came"] for run in broke)
        said += f"It fell to 0 or below in {len(broke)} runs, of which {halved} halved their loss. "
    return f"{said}{_how_fast(raw)} {_sufficient(missed)}"


def _how_fast(raw: list[Row]) -> str:
    """Whether the rate at which the loss falls goes with lr x sum of a / loss, without rules that read labels."""
    groups = split_by((run for run in raw if not _reads_labels(run)), "rule", "init")
    found = {
        key: mean_correlation(together(run["ranges"], "expected", "fell") for run in runs)
        for key, runs in groups.items()
    }
    seeds = len(split_by(raw, "seed"))
    if seeds < 2:
        return "With one seed, how fast the loss falls cannot be distinguished from chance."
    good = [key for key, (_, low, _) in found.items() if low > 0]
    said = (
        f"Within a configuration (rule and start), over the ranges of steps of a run and with {seeds} seeds as "
        "the independent units, the rate at which the loss falls correlates with lr x sum of a / loss, beyond "
        f"chance, in {len(good)} of {len(found)}"
    )
    known = {key: value for key, value in found.items() if not math.isnan(value[0])}
    if known:
        rule, init = least = min(known, key=lambda key: known[key][0])
        said += f" (the least is {rule} {init}: r = {interval(known[least])})"
    answer = "predicts" if found and len(good) == len(found) else "does not everywhere predict"
    return f"{said}. So it {answer} how fast."


def _sufficient(missed: list[Row]) -> str:
    if not missed:
        return "As a sufficient condition it was never contradicted here, which agrees with the claim."
    names = ", ".join(dict.fromkeys(f"{run['rule']} {run['init']}" for run in missed))
    return (
        f"But {len(missed)} runs in which it held did not halve their loss ({names}; least dominance "
        f"{min(r['least'] for r in missed):.1g}): the condition is about gradient flow with a constant bounded "
        "away from 0, and says nothing about finite steps along growing updates. Elsewhere the runs agree with "
        "the claim."
    )


def _reads_labels(run: Row) -> bool:
    return rule_of(run["rule"]).reads_labels


def _figure(raw: list[Row]) -> Figure:
    figure = Figure("dominance", "Decay of the loss")
    titles = ["fall of log loss per step, by lr x sum of a / loss", "the same, by the dominance constant"]
    see = "Each dot is a range of steps. Left: what the alignment of all layers predicts; right: the constant alone."
    figure.panels(titles, see, columns=2, x_title="")
    figure.x(1).pop("matches")
    runs = split_by((run for run in raw if not _reads_labels(run)), "rule", "init")
    points = {kind: [point for run in mine for point in run["ranges"]] for kind, mine in runs.items()}
    for panel, key in enumerate(("expected", "dominance")):
        draw_dots(figure, panel, points, key, "fell")
    return figure


QUESTION = Question(
    name="dominance",
    title="Does alignment dominance predict that the loss falls, and how fast?",
    claim="Alignment dominance gives sufficient conditions for convergence.",
    data="digits",
    answer=_answer,
)
