"""What a question is, what it is asked with, and what an answer is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from distfa.bench.pace import Say
from distfa.experiment.report.plots import Figure

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How a question is asked.

    Attributes:
        rules: Names of feedback rules.
        seeds: Runs of every configuration, seeds counted from 0.
        quick: Whether to use the smallest size that still answers, for tests.
        data: Name of a data set; empty for that of the question.
        data_dir: Where the data set is.
    """

    rules: tuple[str, ...]
    seeds: int = 3
    quick: bool = False
    data: str = ""
    data_dir: str | None = None


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
    answer: Callable[[Asked, Say], Answer]


def mean(values: Sequence[float]) -> float:
    """The mean; NaN for no values."""
    return statistics.fmean(values) if values else math.nan


def correlation(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """Pearson's r and its 95 % confidence interval, by Fisher's z; NaN if it is not defined.

    Source: Fisher, Metron 1, 1921.
    """
    if len(x) < 4 or min(statistics.pstdev(x), statistics.pstdev(y)) == 0:
        return math.nan, math.nan, math.nan
    r = statistics.correlation(x, y)
    z, half = math.atanh(max(-1 + 1e-12, min(1 - 1e-12, r))), 1.96 / math.sqrt(len(x) - 3)
    return r, math.tanh(z - half), math.tanh(z + half)
