"""label-noise: a fifth of the labels are wrong; which rules learn them by heart?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from distfa.bench.pace import Say, paced
from distfa.core.rules import BASELINE
from distfa.data import Dataset
from distfa.lab.questions.base import Answer, Question, QuestionOptions, Row, split_by
from distfa.lab.questions.intervals import ahead, mean
from distfa.lab.questions.training import configurations, dataset, record_training
from distfa.pages.plots import Figure, colour

_SAMPLES, _WRONG = 4000, 0.2
_EPOCHS, _QUICK_EPOCHS = 15, 3
_APART = 1.0  # percentage points that count as a difference
COLUMNS = {
    "rule": "rule",
    "init": "init",
    "train": "train, as labelled, %",
    "test": "test, true labels, %",
    "spread": "+-",
    "alignment": "alignment, mean",
}


def _answer(asked: QuestionOptions, say: Say) -> Answer:
    whole, epochs = dataset(asked, QUESTION.data), _QUICK_EPOCHS if asked.quick else _EPOCHS
    raw: list[Row] = []
    to_train = list(configurations(asked))
    say = paced(say, len(to_train))
    for about in to_train:
        settings = {**about, "epochs": epochs, "batch_size": 64, "probe": {"every": 50}}
        settings |= {"model": {"hidden": (256, 256)}, "optimizer": {"name": "adam", "lr": 1e-3}}
        done = record_training(settings, mislabel(whole, about["seed"]))
        run = {**about, "train": 100 * done.train, "test": 100 * done.test, "alignment": done.alignment}
        raw.append(run)
        say("{rule} {init}, seed {seed}: train {train:.1f} %, test {test:.1f} %".format(**run))
    rows = []
    for (rule, init), mine in split_by(raw, "rule", "init").items():
        spread = float(np.std([run["test"] for run in mine], ddof=1)) if len(mine) > 1 else None
        means = {key: mean([run[key] for run in mine]) for key in ("train", "test", "alignment")}
        rows.append({"rule": rule, "init": init, **means, "spread": spread})
    size = min(_SAMPLES, len(whole.train_x))
    return Answer(
        rows=rows,
        columns=COLUMNS,
        verdict=verdict(raw),
        budget=f"{whole.name}, {size:,} training samples, {_WRONG:.0%} of their labels wrong; hidden 256,256, Adam "
        f"1e-3, {epochs} epochs in batches of 64, {asked.seeds} seed(s); nothing tuned",
        figures=[_figure(rows)],
        raw=raw,
    )


def mislabel(whole: Dataset, seed: int) -> Dataset:
    """The first samples, with a share of their labels moved to another class at random."""
    random, labels = np.random.default_rng(seed), whole.train_y[:_SAMPLES].copy()
    wrong = random.permutation(len(labels))[: round(_WRONG * len(labels))]
    labels[wrong] = (labels[wrong] + random.integers(1, whole.outputs, len(wrong))) % whole.outputs
    return replace(whole, train_x=whole.train_x[:_SAMPLES], train_y=labels)


def verdict(raw: list[Row]) -> str:
    """Against bp seed by seed: the labels of a seed are wrong in the same places for every rule."""
    groups = split_by(raw, "rule", "init")
    first = next((key for key in groups if key[0] == BASELINE), next(iter(groups)))
    figures = {
        key: {side: mean([run[side] for run in runs]) for side in ("train", "test")} for key, runs in groups.items()
    }
    best, seeds = max(figures, key=lambda key: figures[key]["test"]), len(split_by(raw, "seed"))
    said = (
        f"{first[0]} reproduces {figures[first]['train']:.1f} % of the training labels, of which {_WRONG:.0%} are "
        f"wrong, and gets {figures[first]['test']:.1f} % of the test set right; the best on the test set is "
        f"{' '.join(best)} with {figures[best]['test']:.1f} %. "
    )
    if seeds < 2:
        return said + "With one seed nothing can be distinguished from chance, so there is no answer."
    others = {key: runs for key, runs in groups.items() if key != first}
    test, train = (
        {key: ahead(runs, groups[first], side) for key, runs in others.items()} for side in ("test", "train")
    )
    better = [key for key, (points, low, _) in test.items() if points > _APART and low > 0]
    kept = [key for key in better if train[key][2] < 0]
    if not kept:
        return said + (
            f"No rule beats {first[0]} by more than a point (seed by seed, beyond chance over {seeds} seeds) "
            "while reproducing fewer of the labels it was trained on: the answer is no, at this budget."
        )
    names = ", ".join(f"{' '.join(key)} ({test[key][0]:+.1f})" for key in kept)
    return said + (
        f"These beat it by more than a point (seed by seed, beyond chance over {seeds} seeds) while reproducing "
        f"fewer of the labels they were trained on: {names}. So the answer is yes for these, at this budget; "
        "whether that is regularisation or slower learning, equal epochs cannot show."
    )


def _figure(rows: list[Row]) -> Figure:
    figure = Figure("noise", "Wrong labels")
    titles = ["training labels given, %; above 80 wrong ones are learnt", "test accuracy, %"]
    figure.panels(titles, "A fifth of the training labels are wrong, and none of the test labels.", x_title="")
    names = [f"{row['rule']} {row['init']}" for row in rows]
    for panel, key in enumerate(("train", "test")):
        shares, hue = [row[key] for row in rows], colour(panel + 1, 2)
        figure.bars(names, shares, key, hue, panel=panel, showlegend=False, texttemplate="%{y:.1f}")
    return figure


QUESTION = Question(
    name="label-noise",
    title="Does feedback alignment keep a network from learning wrong labels?",
    claim="The law links learning to an implicit regularisation; the abstract says nothing about wrong labels.",
    data="mnist",
    answer=_answer,
)
