"""classes: accuracy against alignment, by the number of classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from distfa.bench.pace import Say, paced
from distfa.core.rules import BASELINE
from distfa.data import Dataset
from distfa.errors import SpecError
from distfa.lab.questions.base import Answer, Question, QuestionOptions, Row, draw_dots, split_by
from distfa.lab.questions.intervals import interval, mean, mean_correlation, together
from distfa.lab.questions.training import configurations, dataset, record_training
from distfa.pages.plots import Figure
from distfa.text.words import pluralize

_COUNTS, _QUICK_COUNTS = (2, 5, 10, 20, 50, 100), (2, 5, 10)
_STEPS, _QUICK_STEPS = 200, 30
COLUMNS = {
    "classes": "classes",
    "baseline": "bp, %",
    "best": "best rule, %",
    "worst": "worst rule, %",
    "alignment": "alignment, mean",
    "aligned": "r within aligned starts",
    "aligned_low": "95 % from",
    "random": "r within random starts",
    "random_low": "95 % from",
    "pooled": "r over both",
}


def _answer(asked: QuestionOptions, say: Say) -> Answer:
    if not set(asked.rules) - {BASELINE}:
        raise SpecError(
            f"experiment 'classes' compares rules other than {BASELINE}; name three or more, such as bp,fa,dfa,dkp"
        )
    whole, steps = dataset(asked, QUESTION.data), _QUICK_STEPS if asked.quick else _STEPS
    counts = [n for n in (_QUICK_COUNTS if asked.quick else _COUNTS) if n <= whole.outputs]
    raw: list[Row] = []
    say = paced(say, len(counts))
    for count in counts:
        on = first_classes(whole, count)
        for about in configurations(asked):
            settings = {**about, "max_steps": steps, "batch_size": 64, "probe": {"every": max(1, steps // 10)}}
            settings |= {"model": {"hidden": (256, 256, 256)}, "optimizer": {"name": "adam", "lr": 1e-3}}
            done = record_training(settings, on)
            raw.append({"classes": count, **about, "accuracy": 100 * done.test, "alignment": done.alignment})
        say(f"{count} classes: {mean([run['accuracy'] for run in raw if run['classes'] == count]):.1f} % on average")
    rows = [_row(count, [run for run in raw if run["classes"] == count]) for count in counts]
    return Answer(
        rows=rows,
        columns=COLUMNS,
        verdict=verdict(raw),
        budget=f"{whole.name}, its first n classes; hidden 256,256,256, Adam 1e-3, {steps} steps of 64, {asked.seeds} "
        f"seed(s), aligned and random starts, rules {', '.join(asked.rules)}; nothing tuned",
        figures=[_figure(raw, counts)],
        raw=raw,
    )


def first_classes(whole: Dataset, count: int) -> Dataset:
    """The samples of the first classes."""
    return replace(whole.take(whole.train_y < count, whole.test_y < count), outputs=count)


def _row(count: int, runs: list[Row]) -> Row:
    """Over rules, inits and seeds, without the baseline, whose alignment is 1 by definition."""
    others = _without_baseline(runs)
    means = [mean([run["accuracy"] for run in mine]) for mine in split_by(others, "rule", "init").values()]
    row = {
        "classes": count,
        "baseline": mean([run["accuracy"] for run in runs if run["rule"] == BASELINE]),
        "best": max(means),
        "worst": min(means),
        "alignment": mean([run["alignment"] for run in others]),
        "pooled": together(others, "alignment", "accuracy"),
    }
    for init, mine in split_by(others, "init").items():
        row[f"{init}"], row[f"{init}_low"], _ = within(mine)
    return row


def within(runs: Sequence[Row]) -> tuple[float, float, float]:
    """The correlation over rules that start alike, one for each seed: its mean over seeds, and its interval."""
    return mean_correlation(together(mine, "alignment", "accuracy") for mine in split_by(runs, "seed").values())


def _without_baseline(runs: Sequence[Row]) -> list[Row]:
    return [run for run in runs if run["rule"] != BASELINE]


def verdict(raw: list[Row]) -> str:
    """Earned within groups: among rules with the same start, and with seeds, not runs, as independent units.

    Aligned starts are better aligned and more accurate than random ones, so that a correlation over both says no more
    than that.
    """
    by_count = split_by(_without_baseline(raw), "classes")
    found = {n: {init: within(mine) for init, mine in split_by(runs, "init").items()} for n, runs in by_count.items()}
    most, seeds = max(found), len(split_by(raw, "seed"))
    good = [n for n, groups in found.items() if all(low > 0 for _, low, _ in groups.values())]
    said = (
        f"Among rules with the same start, with {pluralize(seeds, 'seed')} as the independent units, better aligned "
        f"runs are more accurate, beyond chance, with {', '.join(map(str, good)) or 'no number of'} classes, of "
        f"{', '.join(map(str, found))}. With {most}, "
        + " and ".join(f"{init} starts: r = {interval(group)}" for init, group in found[most].items())
        + f". Over both starts together r = {together(by_count[most], 'alignment', 'accuracy'):.2f}"
        + (". " if most in good else ", which merely reflects the gap between the starts. ")
        + _behind(raw)
    )
    if seeds < 2:
        return said + "With one seed nothing can be distinguished from chance, so there is no answer."
    _, low, high = _growth(by_count)
    grows = "more so" if low > 0 else "less so" if high < 0 else "not shown to be more so"
    if most in good:
        return said + f"So the answer is yes, and {grows} with more classes: this agrees with the claim."
    against = [init for init, (r, _, _) in found[most].items() if not r > 0]
    if against:
        where = f"within {' and '.join(against)} starts"
        return said + f"So the answer is no: it does not hold {where}, which does not agree with the claim."
    return said + f"So there is no answer: within one kind of start, {seeds} seeds cannot distinguish it from chance."


def _growth(by_count: Mapping[Any, list[Row]]) -> tuple[float, float, float]:
    """Whether the correlation within a start grows with the logarithm of the number of classes, seed by seed."""
    points: list[Row] = []
    for count, runs in by_count.items():
        for (seed, _), mine in split_by(runs, "seed", "init").items():
            r = together(mine, "alignment", "accuracy")
            points += [] if math.isnan(r) else [{"seed": seed, "log": math.log(count), "r": r}]
    return mean_correlation(together(mine, "log", "r") for mine in split_by(points, "seed").values())


def _behind(raw: list[Row]) -> str:
    gaps = []
    for count, runs in split_by(raw, "classes").items():
        means = {key: mean([run["accuracy"] for run in mine]) for key, mine in split_by(runs, "rule", "init").items()}
        bp = [value for (rule, _), value in means.items() if rule == BASELINE]
        gaps += [f"{count}: {bp[0] - min(means.values()):.1f}"] if bp else []
    return f"The worst rule is behind bp by (points, by number of classes) {', '.join(gaps)}. " if gaps else ""


def _figure(raw: list[Row], counts: list[int]) -> Figure:
    figure = Figure("classes", "Accuracy against alignment")
    see = "Each dot is a run; the further right, the closer its updates were to the true gradient in training."
    titles = [f"{count} classes: test accuracy, %" for count in counts]
    figure.panels(titles, see, columns=3, x_title="alignment")
    for panel, mine in enumerate(split_by(_without_baseline(raw), "classes").values()):
        draw_dots(figure, panel, split_by(mine, "rule", "init"), "alignment", "accuracy")
    return figure


QUESTION = Question(
    name="classes",
    title="Does better alignment go with better accuracy, and more so with more classes?",
    claim="Better alignment can enhance the performance of feedback alignment on complex tasks of many classes, "
    "where it is limited.",
    data="cifar100",
    answer=_answer,
)
