"""Runs that are compared, in groups: those that differ in their seed only are one line with a band."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from distfa.report.records import Run
from distfa.settings import flat
from distfa.text.words import pluralize

_BESIDE = ("run_dir", "log_every")
_LONGEST_NAME = 60


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """Runs with the same settings and different seeds; most often one.

    Attributes:
        name: The settings in which it differs from other groups, if they tell them apart; else the run's directory.
        runs: Its runs.
    """

    name: str
    runs: Sequence[Run]

    def results(self, key: str) -> list[float]:
        """A figure of every run's result; empty unless all have it and it is finite."""
        found = [run.result.get(key) for run in self.runs]
        known = [float(value) for value in found if value is not None and math.isfinite(value)]
        return known if len(known) == len(found) else []

    def mean(self, key: str) -> float:
        """The mean of a figure that every run's result has."""
        return fmean(self.results(key))


def differences(runs: Sequence[Run]) -> list[str]:
    """The keys of the spec in which the runs differ."""
    specs = [flat(run.spec) for run in runs]
    keys = dict.fromkeys(key for spec in specs for key in spec if key not in _BESIDE)
    return [key for key in keys if len({repr(spec.get(key)) for spec in specs}) > 1]


def setting_of(run: Run, key: str) -> str | None:
    """A setting of a run, as text; None where it has none."""
    value = flat(run.spec).get(key)
    return None if value is None else str(value)


def group_seeds(runs: Sequence[Run]) -> list[Seeds]:
    """The runs in groups, in order; equal runs of one seed stay apart, since they are no sample of seeds."""
    keys = [key for key in differences(runs) if key != "seed"]
    found: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        found.setdefault(tuple(setting_of(run, key) for key in keys), []).append(run)
    together = []
    for mine in found.values():
        several = len({setting_of(run, "seed") for run in mine}) == len(mine)
        together += [mine] if several else [[run] for run in mine]
    return [Seeds(name=name, runs=mine) for name, mine in zip(_names(together, keys), together, strict=True)]


def _names(groups: Sequence[Sequence[Run]], keys: Sequence[str]) -> list[str]:
    if len(groups) == 1:
        return [pluralize(len(groups[0]), "seed")]
    names = [", ".join(f"{key} {setting_of(runs[0], key)}" for key in keys) for runs in groups]
    if len(set(names)) == len(names) and max(map(len, names)) < _LONGEST_NAME:
        return names
    return [runs[0].path.name + (f" and {len(runs) - 1} more" if len(runs) > 1 else "") for runs in groups]
