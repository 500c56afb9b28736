"""What a setting costs: the same run with and without it, in turn, since a machine is never completely idle."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from distfa.bench.outcome import Outcome
from distfa.bench.pace import paced
from distfa.intake.subject import subject_for
from distfa.measuring.task import read
from distfa.run.disk.run_dir import CHECKPOINTS
from distfa.run.observing import Progress
from distfa.run.run import run
from distfa.settings import RunSpec, parse_spec
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
Settings = Mapping[str, Mapping[str, Any]]


def measure(
    base: RunSpec,
    settings: Settings,
    *,
    name: str,
    schedules: Sequence[str],
    rounds: int,
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Train under each setting in turn; every second round goes backwards.

    Args:
        base: The run.
        settings: By name, what each changes in the spec; the others are compared with the first.
        name: Name of the outcome.
        schedules: ``sync`` and ``async``.
        rounds: How often each is measured.
        say: Called with every measurement.

    Raises:
        DistfaError: A run failed.
    """
    raw: list[dict[str, Any]] = []
    say = paced(say, rounds * len(schedules) * len(settings))
    for number in range(1, rounds + 1):
        for schedule in schedules:
            for setting in list(settings)[:: 1 if number % 2 else -1]:
                spec = parse_spec({**base.model_dump(mode="json"), "schedule": schedule, **settings[setting]})
                shot = {"round": number, "schedule": schedule, "setting": setting, **_measured(spec)}
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


def _measured(spec: RunSpec) -> dict[str, Any]:
    dataset = read(spec)
    subject = subject_for(spec, dataset)
    driver: list[float] = []  # processor seconds of this process, before training and after each record

    def observe(progress: Progress) -> None:
        driver[1:] = [time.process_time()]
        if progress.record is None:
            driver[:] = driver[-1:]

    with tempfile.TemporaryDirectory() as scratch:
        where = Path(scratch) / "run"
        kept = spec.model_copy(update={"run_dir": str(where)})
        result, _ = run(kept, subject.network, dataset, model=subject.model, observer=observe)
        written = list((where / CHECKPOINTS).glob("*/manifest.json"))
        size = sum(file.stat().st_size for file in (where / CHECKPOINTS).rglob("*") if file.is_file())
    rows = len(dataset.train_x) * spec.epochs / result.steps
    layers = sum(layer["cpu_seconds"] for layer in result.facts.get("layers", []))
    return {
        "step_ms": 1e3 * rows / result.samples_per_second,
        "layers_cpu_ms": 1e3 * layers / result.steps,
        "cpu_ms": 1e3 * (layers + driver[-1] - driver[0]) / result.steps,
        "written": len(written),
        "mb": size / len(written) / MB if written else 0.0,
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
