"""What checkpoints cost: the same run with and without them, in turn, on a machine that is never quite still."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from distfa.bench.outcome import Outcome
from distfa.bench.task import read
from distfa.experiment.run import run
from distfa.experiment.run_dir import CHECKPOINTS
from distfa.experiment.spec import RunSpec, parse
from distfa.experiment.subject import subject_for

COLUMNS = {
    "schedule": "schedule",
    "checkpoints": "checkpoints",
    "step_ms": "ms a step",
    "least": "least",
    "most": "most",
    "more": "more than without, %",
    "written": "written",
    "mib": "MiB each",
}
_READ = (
    "'ms a step' is training time over steps, startup and evaluation left out, median over the rounds; 'more than "
    "without' compares these medians. All runs of a round follow each other, in turns"
)
_KEEP_ALL = 10**6


def measure(
    base: RunSpec,
    *,
    every: int,
    schedules: Sequence[str],
    rounds: int,
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Train with a checkpoint every so many steps and without any, in turn.

    Args:
        base: The run.
        every: Steps between checkpoints, all of which are written.
        schedules: ``sync`` and ``async``.
        rounds: How often each.
        say: Told every measurement.

    Raises:
        DistfaError: A run failed.
    """
    raw: list[dict[str, Any]] = []
    for number in range(1, rounds + 1):
        for schedule in schedules:
            for steps in (0, every) if number % 2 else (every, 0):
                checkpoint = {"every": steps, "seconds": 0, "keep": _KEEP_ALL}
                spec = parse({**base.model_dump(mode="json"), "schedule": schedule, "checkpoint": checkpoint})
                shot = {"round": number, "schedule": schedule, "every": steps, **_measured(spec)}
                say(f"round {number}: {schedule}, {_named(steps)}: {shot['step_ms']:.2f} ms a step")
                raw.append(shot)
    rows = [_row(raw, schedule, steps) for schedule in schedules for steps in (0, every)]
    return Outcome(
        name="checkpoints",
        settings={"every": every, "rounds": rounds, **base.model_dump(mode="json", exclude_defaults=True)},
        columns=COLUMNS,
        rows=rows,
        notes=[_READ],
        raw=raw,
    )


def _measured(spec: RunSpec) -> dict[str, Any]:
    dataset = read(spec)
    subject = subject_for(spec, dataset)
    with tempfile.TemporaryDirectory() as scratch:
        where = Path(scratch) / "run"
        kept = spec.model_copy(update={"run_dir": str(where)})
        result, _ = run(kept, subject.network, dataset, model=subject.model)
        written = list((where / CHECKPOINTS).glob("*/manifest.json"))
        size = sum(file.stat().st_size for file in (where / CHECKPOINTS).rglob("*") if file.is_file())
    step_rows = len(dataset.train_x) * spec.epochs / result.steps
    return {
        "step_ms": 1e3 * step_rows / result.samples_per_second,
        "written": len(written),
        "mib": size / len(written) / 2**20 if written else 0.0,
    }


def _row(raw: list[dict[str, Any]], schedule: str, every: int) -> dict[str, Any]:
    def times(steps: int) -> list[float]:
        return [shot["step_ms"] for shot in raw if (shot["schedule"], shot["every"]) == (schedule, steps)]

    mine = [shot for shot in raw if (shot["schedule"], shot["every"]) == (schedule, every)]
    return {
        "schedule": schedule,
        "checkpoints": _named(every),
        "step_ms": median(times(every)),
        "least": min(times(every)),
        "most": max(times(every)),
        "more": 100 * (median(times(every)) / median(times(0)) - 1) if every else None,
        "written": median(shot["written"] for shot in mine),
        "mib": mine[0]["mib"],
    }


def _named(every: int) -> str:
    return f"every {every} steps" if every else "none"
