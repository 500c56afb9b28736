"""Questions, the options to ask them with, and answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distfa.bench.options import AS_FOR_TRAIN, Words, option, option_class
from distfa.bench.pace import Say
from distfa.pages.plots import Figure, category

Row = dict[str, Any]


@option_class
class QuestionOptions:
    """How a question is asked."""

    rules: Words = option(
        ("bp", "fa", "dfa", "dkp"), "Rules to compare; dkp@50 is dkp renewed every 50 steps.", metavar="RULE,RULE,..."
    )
    seeds: int = option(3, "Number of seeds for every configuration.", min=1)
    data: str = option("", "As for 'distfa train'; default: the experiment's own data set.")
    data_dir: str | None = option(None, AS_FOR_TRAIN)
    quick: bool = option(False, "Use the smallest size that still gives an answer; needs no data file.")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer to a question.

    Attributes:
        rows: One row per configuration, with ``columns``.
        columns: Keys of the rows, with their headings and units.
        verdict: Whether the runs agree with the claim, in words and figures.
        budget: Data, sizes, steps and seeds, in words.
        figures: The figures to draw.
        raw: Every run that the rows are made from.
    """

    rows: list[Row]
    columns: dict[str, str]
    verdict: str
    budget: str
    figures: list[Figure]
    raw: list[Row]


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question.

    Attributes:
        name: Its name in the command.
        title: As a sentence that ends in a question mark.
        claim: What the abstract of Robertson & Koyejo (ICML 2024) says about it, in our words.
        data: Its data set.
        answer: The function that trains, measures and judges.
    """

    name: str
    title: str
    claim: str
    data: str
    answer: Callable[[QuestionOptions, Say], Answer]


def split_by(rows: Iterable[Row], *keys: str) -> dict[Any, list[Row]]:
    """Rows by the values of these keys, in the order in which they come; for one key by its value alone."""
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(row[keys[0]] if len(keys) == 1 else tuple(row[key] for key in keys), []).append(row)
    return found


def draw_dots(figure: Figure, panel: int, groups: Mapping[Sequence[str], Sequence[Row]], x: str, y: str) -> None:
    """Add a dot per row to a panel, each group in its colour."""
    for number, (names, rows) in enumerate(groups.items(), start=1):
        name, points = " ".join(names), [(row[x], row[y]) for row in rows]
        style: dict[str, Any] = {"mode": "markers", "marker": {"size": 8}, "showlegend": panel == 0}
        figure.line(points, name, category(number)["hue"], panel=panel, legendgroup=name, **style)
