"""Means, correlations and their intervals, with seeds as the independent units."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from distfa.lab.questions.base import Row

_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)  # Student's t, 97.5 %, 1 to 10 degrees of freedom


def mean(values: Sequence[float]) -> float:
    """The mean; NaN for no values."""
    return statistics.fmean(values) if values else math.nan


def over_units(values: Iterable[float]) -> tuple[float, float, float]:
    """The mean over independent units and its 95 % confidence interval, by Student's t; NaN where it is not defined.

    Args:
        values: One figure per unit (a seed); those that are NaN are left out.
    """
    known = [value for value in values if not math.isnan(value)]
    if len(known) < 2:
        return mean(known), math.nan, math.nan
    freedom = len(known) - 1
    t = _T[freedom - 1] if freedom <= len(_T) else 1.96 + 2.8 / freedom
    middle, half = mean(known), t * statistics.stdev(known) / math.sqrt(len(known))
    return middle, middle - half, middle + half


def mean_correlation(values: Iterable[float]) -> tuple[float, float, float]:
    """``over_units`` of correlations, with an interval that ends where correlations do."""
    middle, low, high = over_units(values)
    return (middle, low, high) if math.isnan(low) else (middle, max(-1.0, low), min(1.0, high))


def together(points: Sequence[Row], x: str, y: str) -> float:
    """Pearson's r of two figures over points of one unit; NaN for fewer than three, or where one does not vary."""
    xs, ys = ([point[key] for point in points] for key in (x, y))
    if len(points) < 3 or min(statistics.pstdev(xs), statistics.pstdev(ys)) == 0:
        return math.nan
    return statistics.correlation(xs, ys)


def ahead(mine: Sequence[Row], theirs: Sequence[Row], key: str) -> tuple[float, float, float]:
    """How far some runs are ahead of others in a figure, seed by seed: the mean over seeds and its interval."""
    other = {run["seed"]: run[key] for run in theirs}
    return over_units(run[key] - other[run["seed"]] for run in mine if run["seed"] in other)


def interval(found: tuple[float, float, float]) -> str:
    """A figure with its interval, in words."""
    middle, low, high = found
    return f"{middle:.2f}" if math.isnan(low) else f"{middle:.2f} (95 % from {low:.2f} to {high:.2f})"
