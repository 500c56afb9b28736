"""The cost of checkpoints or TLS: the same run with and without them, in turn, since no machine is ever idle."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from distfa.bench.options import CheckpointsOptions, TlsOptions, among
from distfa.bench.outcome import Outcome
from distfa.bench.pace import Say, paced
from distfa.core.base.recipe import SCHEDULES
from distfa.measuring.scratch_run import run_in_scratch
from distfa.run.disk.run_dir import CHECKPOINTS
from distfa.run.observing import Progress
from distfa.settings import RunSpec, amend
from distfa.text.words import MB

COLUMNS = {
    "schedule": "schedule",
    "setting": "setting",
    "step_ms": "ms a step",
    "more": "more than the first, %",
    "more_least": "least",
    "more_most": "most",
    "cpu_ms": "processor ms a step",
    "cpu_more": "more than the first, %",
    "cpu_more_least": "least",
    "cpu_more_most": "most",
    "written": "checkpoints",
    "mb": "MB each",
}
_READ = (
    "'ms a step' is training time divided by steps, without start and evaluation; 'processor ms' is processor time of "
    "all layers and of the process that drives them, divided by steps. Figures are medians over the rounds. 'more than "
    "the first' compares runs of the same round: the median, the least and the most"
)
_FIXED = {"micro_batches": 4, "ledger.every": 0, "probe.every": 0}
Settings = Mapping[str, Mapping[str, Any]]
_KEEP_ALL = 10**6


def measure(options: CheckpointsOptions | TlsOptions, say: Say) -> Outcome:
    """Train under each setting in turn; every second round goes backwards.

    Raises:
        UsageError: A schedule does not exist.
        DistfaError: A run failed.
    """
    name, fixed, settings = _list_settings(options)
    schedules, rounds = options.schedules, options.rounds
    among("--schedules", schedules, SCHEDULES)
    base = options.spec({**_FIXED, "eval_every": options.epochs, **fixed})
    raw: list[dict[str, Any]] = []
    say = paced(say, rounds * len(schedules) * len(settings))
    for number in range(1, rounds + 1):
        for schedule in schedules:
            for setting in list(settings)[:: 1 if number % 2 else -1]:
                spec = amend(base, {"schedule": schedule, **settings[setting]})
                shot = {"round": number, "schedule": schedule, "setting": setting, **_measure(spec)}
                say(
                    f"round {number}: {schedule}, {setting}: {shot['step_ms']:.2f} ms a step, {shot['cpu_ms']:.2f} busy"
                )
                raw.append(shot)
    return Outcome(
        name=name,
        settings={"rounds": rounds, "compared": dict(settings), **base.model_dump(mode="json", exclude_defaults=True)},
        columns=COLUMNS,
        rows=[_row(raw, schedule, setting, next(iter(settings))) for schedule in schedules for setting in settings],
        notes=[_READ],
        raw=raw,
    )


def _list_settings(options: CheckpointsOptions | TlsOptions) -> tuple[str, dict[str, Any], Settings]:
    """The benchmark's name, the keys that all runs have, and what each setting changes; the first is compared with."""
    if isinstance(options, TlsOptions):
        kinds = {"plain text": "insecure", "mutual TLS": "tls"}
        return "tls", {"checkpoint.every": 0}, {name: {"wire": {"security": kind}} for name, kind in kinds.items()}
    kept = {"every": options.every, "seconds": 0, "keep": _KEEP_ALL}
    without = {"checkpoint": kept | {"every": 0}}
    return "checkpoints", {}, {"none": without, f"every {options.every} steps": {"checkpoint": kept}}


def _measure(spec: RunSpec) -> dict[str, Any]:
    dataset = spec.data.load()
    driver: list[float] = []  # processor seconds of this process, before training and after each record
    kept: dict[str, float] = {}

    def observe(progress: Progress) -> None:
        driver[1:] = [time.process_time()]
        if progress.record is None:
            driver[:] = driver[-1:]

    def look(run_dir: Path) -> None:
        written = len(list((run_dir / CHECKPOINTS).glob("*/manifest.json")))
        size = sum(file.stat().st_size for file in (run_dir / CHECKPOINTS).rglob("*") if file.is_file())
        kept.update(written=written, mb=size / written / MB if written else 0.0)

    result, _ = run_in_scratch(spec, dataset, observer=observe, look=look)
    rows = len(dataset.train_x) * spec.epochs / result.steps
    layers = sum(worker["cpu_seconds"] for worker in result.facts.get("workers", []))
    return {
        "step_ms": 1e3 * rows / result.samples_per_second,
        "layers_cpu_ms": 1e3 * layers / result.steps,
        "cpu_ms": 1e3 * (layers + driver[-1] - driver[0]) / result.steps,
        **kept,
    }


def _row(raw: list[dict[str, Any]], schedule: str, setting: str, first: str) -> dict[str, Any]:
    def shots(of: str) -> list[dict[str, Any]]:
        return [shot for shot in raw if (shot["schedule"], shot["setting"]) == (schedule, of)]

    row: dict[str, Any] = {"schedule": schedule, "setting": setting}
    for key, more in (("step_ms", "more"), ("cpu_ms", "cpu_more")):
        row[key] = median(shot[key] for shot in shots(setting))
        ratios = [100 * (a[key] / b[key] - 1) for a, b in zip(shots(setting), shots(first), strict=True)]
        told = (median(ratios), min(ratios), max(ratios)) if setting != first else (None, None, None)
        row |= dict(zip((more, f"{more}_least", f"{more}_most"), told, strict=True))
    return row | {key: median(shot[key] for shot in shots(setting)) for key in ("written", "mb")}
