"""``distfa bench scale``: what a step costs as layers are added, and how much of it is not their arithmetic."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from distfa.bench.options import ScaleOptions
from distfa.bench.outcome import Outcome
from distfa.bench.pace import Say, paced
from distfa.core.base.recipe import Recipe
from distfa.core.base.threads import use_threads
from distfa.core.books.records import StepRecord
from distfa.costs.counted import works
from distfa.costs.layer_memory import memory_by_layer
from distfa.measuring import random_data, ray_run, steady_state
from distfa.measuring.machine import bare_layer_bytes, cores
from distfa.measuring.task import Task
from distfa.runtime.ray.cluster import start_ray, stop_ray
from distfa.settings import RunSpec
from distfa.text.words import MB, human_bytes

_COLUMNS = {
    "layers": "layers",
    "micro_batches": "M",
    "step_ms": "step, ms",
    "serial_ms": "serial step, CPU ms",
    "payload_bytes": "payload, bytes/step",
    "messages": "messages /step",
    "overhead_ms": "overhead, CPU ms/layer /step",
    "overhead_us_per_message": "CPU us /message",
    "busy_overhead_ms": "by the clock, ms/layer /step",
    "memory_mb": "memory, MB/layer",
    "arrays_mb": "of it arrays, MB",
}
_COUNTED = ("layers", "micro_batches", "payload_bytes", "messages")
_BATCHES = 20
_LR = 1e-3


def measure(options: ScaleOptions, say: Say) -> Outcome:
    """Measure every depth.

    Raises:
        DistfaError: A run failed, or Ray cannot be started.
    """
    bare, raw = bare_layer_bytes(), []
    with tempfile.TemporaryDirectory() as folder:
        specs = list(_specs(options, Path(folder)))
        say = paced(say, options.rounds * len(specs))
        start_ray(None)
        try:
            for number in range(1, options.rounds + 1):
                for depth, count, spec in specs:
                    shot = _shot(spec, options, bare)
                    raw.append({"round": number, "layers": depth, "micro_batches": count, **shot})
                    say(f"round {number}: {depth} layers, M={count}: {shot['step_ms']:.1f} ms per step")
        finally:
            stop_ray()
    return Outcome(
        name="scale",
        settings=options.as_dict(),
        columns=_COLUMNS,
        rows=[
            _median([shot for shot in raw if (shot["layers"], shot["micro_batches"]) == (d, m)]) for d, m, _ in specs
        ],
        notes=_notes(options, bare),
        raw=raw,
    )


def _specs(options: ScaleOptions, folder: Path) -> Iterator[tuple[int, int, RunSpec]]:
    """(L, M, spec) of every configuration."""
    rows = _BATCHES * options.batch_size
    data = random_data.write_samples(folder, rows=rows, features=options.width, seed=options.seed)
    fixed = {"data.name": "npz", "data.dir": str(data), "optimizer.name": "sgd", "optimizer.lr": _LR}
    fixed |= {"ledger.every": 0, "probe.every": 0}
    for depth in options.layers:
        for count in options.micro_batches:
            total = options.steps * max(options.layers) // depth + 2 * options.warmup
            mine = {"model.hidden": [options.width] * (depth - 1), "epochs": total, "max_steps": total}
            yield depth, count, options.spec({**fixed, **mine, "micro_batches": count})


def _shot(spec: RunSpec, options: ScaleOptions, bare_bytes: int) -> dict[str, float]:
    """One run on Ray and one in this process, side by side."""
    task = Task.of(spec)
    wired = ray_run.run_on_ray(spec, task, warmup=options.warmup)
    depth = len(task.recipe.network)
    serial_seconds = _serial_cpu_seconds(spec, task, options.warmup)
    overhead = wired.cpu_seconds - serial_seconds / depth
    return {
        "step_ms": 1000 * wired.step_seconds,
        "serial_ms": 1000 * serial_seconds,
        "payload_bytes": wired.payload_bytes,
        "messages": wired.messages,
        "overhead_ms": 1000 * overhead,
        "overhead_us_per_message": 1e6 * overhead * depth / wired.messages,
        "busy_overhead_ms": 1000 * (wired.busy_seconds - serial_seconds / depth),
        "memory_mb": (wired.rss_bytes - bare_bytes) / MB,
        "arrays_mb": _array_bytes(spec, task.recipe) / MB,
        "busy": wired.steady.busy,
        "others": wired.steady.others,
    }


def _serial_cpu_seconds(spec: RunSpec, task: Task, warmup: int) -> float:
    """CPU time of a step of the same run in this process on one thread: only the work of the layers themselves."""
    with use_threads():
        rows = (record.rows for record in task.trainer().run() if isinstance(record, StepRecord))
        return steady_state.measure_steady_state(rows, warmup=warmup).cpu_seconds * spec.batch_size / 1000


def _array_bytes(spec: RunSpec, recipe: Recipe) -> int:
    """The memory that a middle layer needs: W, G, B, what forwards keep, and full windows at each of its streams."""
    job = spec.job(recipe.network, run_id="", train_rows=spec.batch_size, test_rows=0)
    held = memory_by_layer(recipe, works(recipe), codec=job.codec, window=job.wire.window, base=0)
    return held[(len(recipe.network) - 1) // 2].total


def _median(shots: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One row from the rounds; counts are whole numbers."""
    row = {key: median(shot[key] for shot in shots) for key in shots[0] if key != "round"}
    return {key: int(value) if key in _COUNTED else value for key, value in row.items()}


def _notes(options: ScaleOptions, bare_bytes: int) -> list[str]:
    return [
        f"rule {options.rule}, {options.schedule}, width {options.width}, batch {options.batch_size}, SGD; medians "
        f"of {options.rounds} rounds of {options.steps} steps (with fewer layers more) after {options.warmup} of "
        f"warm-up; {cores()} cores for all layers",
        "overhead: CPU time of a layer's process per step (mean over the layers) minus its share, 1/L, of the CPU time "
        "of the same step in one process on one thread; 'by the clock' uses instead of CPU time the time in which the "
        "layer does not wait for a message, though it may wait for a core",
        f"memory: of a layer's process, median over the layers, beyond the {human_bytes(bare_bytes)} of a process "
        "that has only imported torch, ray and distfa; arrays: weights, gradients, feedback, forwards, full windows",
    ]
