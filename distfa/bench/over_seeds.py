"""Configurations that are trained once per seed: their runs, the means, and notes for the reader."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from distfa.bench.outcome import Outcome
from distfa.bench.pace import Say
from distfa.errors import NonFiniteError
from distfa.settings import RunSpec

Figures = dict[str, Any]


def train_each(
    spec: RunSpec, about: dict[str, str], seeds: int, run: Callable[[RunSpec], Figures], say: Say
) -> list[Figures]:
    """The figures of one run per seed, counting up from the spec's seed; for a run that diverged the reason.

    Args:
        spec: The spec of the configuration.
        about: Its names, by column.
        seeds: How many seeds.
        run: Trains a spec; returns ``test_accuracy`` in percent, and more.
        say: Called as each run ends.
    """
    runs = []
    for seed in range(spec.seed, spec.seed + seeds):
        found: Figures = {**about, "seed": seed}
        try:
            found |= run(spec.model_copy(update={"seed": seed}))
        except NonFiniteError as exc:
            found["diverged"] = str(exc).splitlines()[0]
        say(f"{_name(found)}: {found.get('test_accuracy', math.nan):.2f} %")
        runs.append(found)
    return runs


def succeeded(runs: Iterable[Figures]) -> list[Figures]:
    """The runs that did not diverge."""
    return [run for run in runs if "diverged" not in run]


def means(runs: Iterable[Figures], *, summed: Sequence[str] = ()) -> Figures:
    """Means of the figures, sums of those in ``summed``, and the deviation of the accuracy; empty if all diverged."""
    done = succeeded(runs)
    names = [key for key, value in done[0].items() if key != "seed" and not isinstance(value, str)] if done else []
    row: Figures = {key: mean_of_known(run[key] for run in done) for key in names}
    row |= {key: sum(run[key] for run in done) for key in summed if key in names}
    if len(done) > 1:
        row["spread"] = statistics.stdev(run["test_accuracy"] for run in done)
    return row


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are not None; None if there are none."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def outcome(
    name: str,
    base: RunSpec,
    seeds: int,
    *,
    columns: dict[str, str],
    notes: list[str],
    of: str = "accuracy",
    **rest: Any,
) -> Outcome:
    """An outcome with ``rows`` and ``raw`` as in ``Outcome``; with one seed it has no column of deviations."""
    return Outcome(
        name=name,
        settings={"seeds": seeds, **base.model_dump(mode="json", exclude_defaults=True)},
        columns={key: heading for key, heading in columns.items() if key != "spread" or seeds > 1},
        notes=[
            *notes,
            *(f"{_name(run)}, diverged: {run['diverged']}" for run in rest["raw"] if "diverged" in run),
            *([f"one seed: small differences of {of} mean nothing"] if seeds == 1 else []),
        ],
        **rest,
    )


def _name(run: Figures) -> str:
    first, second, *_ = run.values()
    return f"{first} {second}, seed {run['seed']}"
