"""classes: accuracy against alignment, by the number of classes."""

from __future__ import annotations

from dataclasses import replace

from distfa.bench.pace import Say, paced
from distfa.core.rules import BASELINE
from distfa.data import Dataset
from distfa.experiment.report.plots import Figure, Trace, axes, colour, panels
from distfa.questions.base import Answer, Asked, Question, Row, correlation, mean
from distfa.questions.training import configurations, dataset, train

_COUNTS, _QUICK_COUNTS = (2, 5, 10, 20, 50, 100), (2, 5, 10)
_STEPS, _QUICK_STEPS = 200, 30
COLUMNS = {
    "classes": "classes",
    "baseline": "bp, %",
    "best": "best rule, %",
    "worst": "worst rule, %",
    "alignment": "alignment, mean",
    "r": "correlation",
    "low": "95 % from",
    "high": "to",
}


def _answer(asked: Asked, say: Say) -> Answer:
    whole, steps = dataset(asked, QUESTION.data), _QUICK_STEPS if asked.quick else _STEPS
    counts = [n for n in (_QUICK_COUNTS if asked.quick else _COUNTS) if n <= whole.outputs]
    raw: list[Row] = []
    say = paced(say, len(counts))
    for count in counts:
        on = first_classes(whole, count)
        for rule, init, seed in configurations(asked):
            settings = {"rule": rule, "init": init, "seed": seed, "max_steps": steps, "batch_size": 64}
            settings |= {"model": {"hidden": (256, 256, 256)}, "optimizer": {"name": "adam", "lr": 1e-3}}
            done = train({**settings, "probe": {"every": max(1, steps // 10)}}, on)
            raw.append({"classes": count, "rule": rule, "init": init, "seed": seed})
            raw[-1] |= {"accuracy": 100 * done.test, "alignment": done.alignment}
        say(f"{count} classes: {mean([run['accuracy'] for run in raw if run['classes'] == count]):.1f} % in the mean")
    rows = [_row(count, [run for run in raw if run["classes"] == count]) for count in counts]
    return Answer(
        rows=rows,
        columns=COLUMNS,
        verdict=_verdict(rows),
        budget=f"{whole.name}, its first n classes; hidden 256,256,256, Adam 1e-3, {steps} steps of 64, {asked.seeds} "
        f"seed(s), aligned and random starts, rules {', '.join(asked.rules)}; nothing tuned",
        figures=[_figure(raw, counts)],
        raw=raw,
    )


def first_classes(whole: Dataset, count: int) -> Dataset:
    """The samples of the first classes."""
    train_rows, test_rows = whole.train_y < count, whole.test_y < count
    return replace(
        whole,
        train_x=whole.train_x[train_rows],
        train_y=whole.train_y[train_rows],
        test_x=whole.test_x[test_rows],
        test_y=whole.test_y[test_rows],
        outputs=count,
    )


def _row(count: int, runs: list[Row]) -> Row:
    """The correlation over rules, inits and seeds, without the baseline, whose alignment is 1 by definition."""
    others = [run for run in runs if run["rule"] != BASELINE]
    r, low, high = correlation(*([run[key] for run in others] for key in ("alignment", "accuracy")))
    by_rule: dict[tuple[str, str], list[float]] = {}
    for run in others:
        by_rule.setdefault((run["rule"], run["init"]), []).append(run["accuracy"])
    means = [mean(values) for values in by_rule.values()]
    return {
        "classes": count,
        "baseline": mean([run["accuracy"] for run in runs if run["rule"] == BASELINE]),
        "best": max(means),
        "worst": min(means),
        "alignment": mean([run["alignment"] for run in others]),
        "r": r,
        "low": low,
        "high": high,
    }


def _verdict(rows: list[Row]) -> str:
    above = [row["classes"] for row in rows if row["low"] > 0]
    most = rows[-1]
    gaps = ", ".join(f"{row['classes']}: {row['baseline'] - row['worst']:.1f}" for row in rows)
    return (
        f"Better aligned runs are more accurate, beyond chance, with {', '.join(map(str, above)) or 'no number'} "
        f"classes, of {', '.join(str(row['classes']) for row in rows)} (with {most['classes']}: r = "
        f"{most['r']:.2f}, 95 % from {most['low']:.2f} to {most['high']:.2f}). The worst rule is behind bp by (points, "
        f"by number of classes) {gaps}. "
        + (
            "This agrees with the claim."
            if most["low"] > 0
            else "With most classes this does not agree with the claim."
        )
    )


def _figure(raw: list[Row], counts: list[int]) -> Figure:
    kinds = [*dict.fromkeys((run["rule"], run["init"]) for run in raw if run["rule"] != BASELINE)]
    traces: list[Trace] = []
    for panel, count in enumerate(counts):
        for number, (rule, init) in enumerate(kinds, start=1):
            mine = [run for run in raw if (run["classes"], run["rule"], run["init"]) == (count, rule, init)]
            traces.append(
                {
                    **{"type": "scatter", "mode": "markers", "name": f"{rule} {init}", "showlegend": panel == 0},
                    **{"x": [run["alignment"] for run in mine], "y": [run["accuracy"] for run in mine]},
                    **{"marker": {"color": colour(number, len(kinds)), "size": 8}, "legendgroup": f"{rule} {init}"},
                    **axes(panel),
                }
            )
    layout = panels([f"{count} classes: test accuracy, %" for count in counts], columns=3, x_title="alignment")
    see = (
        "Each dot is a run; the further right, the nearer its updates were to the true gradient, on average over "
        "training."
    )
    return Figure(name="classes", title="Accuracy against alignment", see=see, traces=traces, layout=layout)


QUESTION = Question(
    name="classes",
    title="Does better alignment go with better accuracy, and more so with more classes?",
    claim="Better alignment can enhance the performance of feedback alignment on complex tasks of many classes, "
    "where it is "
    "limited.",
    data="cifar100",
    answer=_answer,
)
