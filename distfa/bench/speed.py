"""``distfa bench speed``: distfa, torch's own engines and the limit of the machine, on the same task."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from distfa.bench import engines, matrix_rate
from distfa.bench.outcome import Outcome
from distfa.bench.pace import Say, paced
from distfa.bench.rounds import Configuration, Rounds
from distfa.core.rules import BASELINE
from distfa.costs import counted
from distfa.costs.arithmetic import Product
from distfa.errors import BenchError
from distfa.measuring import random_data
from distfa.measuring.machine import cores
from distfa.measuring.task import Task
from distfa.runtime.ray.cluster import LOCAL, start_ray, stop_ray
from distfa.settings import MLP, RunSpec, parse_spec

_COLUMNS = {
    "configuration": "configuration",
    "micro_batches": "M",
    "samples_per_second": "samples/s",
    "least": "least",
    "most": "most",
    "to_single": "to torch, one process",
    "to_pipeline": "to best pipeline",
    "of_bound": "of the compute bound",
    "cpu_seconds": "CPU s per 1000",
    "busy": "machine busy",
    "others": "by others",
}
_RANDOM_BATCHES = 20
_RATE_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure, as the options of ``distfa bench speed`` say it; ``data`` None for random numbers (mlp only)."""

    rules: Sequence[str]
    schedules: Sequence[str]
    processes: Sequence[int]
    micro_batches: Sequence[int]
    model: str
    hidden: Sequence[int]
    batch_size: int
    lr: float
    dtype: str
    warmup: int
    steps: int
    rounds: int
    books_every: int
    data: str | None
    data_dir: str | None
    seed: int
    deadline_seconds: float


def run(settings: Settings, say: Say) -> Outcome:
    """Measure everything; ``say`` is called with lines of progress.

    Raises:
        BenchError: The settings cannot be measured.
        DistfaError: The data cannot be read, or Ray cannot be started.
    """
    with tempfile.TemporaryDirectory() as folder:
        spec = _spec(settings, Path(folder))
        task = Task.of(spec)
        configurations = _configurations(settings, spec, task)
        seeded = task.recipe.network.seeded
        named = settings.rules if seeded else ()  # the bound knows only the products of plain layers
        made = {rule: counted.step(replace(task.recipe, rule=parse_spec({"rule": rule}).rule)) for rule in named}
        products = [product for layers in made.values() for layer in layers for product in layer]
        rate: dict[str, Any] = {
            "dtype": settings.dtype,
            "seconds": _RATE_SECONDS,
            "deadline_seconds": settings.deadline_seconds,
        }
        sizes = Counter(configuration.family for configuration in configurations).values()
        shots = sum(size for size in sizes if size > 1) + settings.rounds * len(sizes)
        rounds, times = Rounds(seed=settings.seed, say=paced(say, shots)), []
        start_ray(LOCAL)
        try:
            chosen = rounds.search(configurations)
            for number in range(1, settings.rounds + 1):
                rounds.round(number, chosen)
                if products:
                    times.append(matrix_rate.run(products, **rate))
        finally:
            stop_ray()
    seconds = {product: median(one[product] for one in times) for product in products}
    bounds = {rule: settings.batch_size / matrix_rate.bound(layers, seconds, cores()) for rule, layers in made.items()}
    return Outcome(
        name="speed",
        settings=asdict(settings),
        columns=_COLUMNS,
        rows=_compared([row for configuration in chosen if (row := rounds.row(configuration)) is not None], bounds),
        notes=[*_notes(settings, seconds, bounds), *rounds.failures],
        raw=[
            {
                "round": shot.round,
                "configuration": shot.configuration.family,
                "micro_batches": shot.configuration.micro_batches,
                **asdict(shot.steady),
            }
            for shot in rounds.shots
        ],
    )


def _spec(settings: Settings, folder: Path) -> RunSpec:
    """The task as a spec of a run with the baseline rule and batches of equal size."""
    if not settings.rules:
        raise BenchError("no rule is named, so nothing of distfa's can be measured; name one, as --rules dfa")
    data: dict[str, Any] = {"name": settings.data, "dir": settings.data_dir}
    if settings.data is None and settings.model != MLP:
        raise BenchError(f"random numbers are for the multi-layer perceptron; name a data set for {settings.model!r}")
    if settings.data is None:
        rows = _RANDOM_BATCHES * settings.batch_size
        data = {"name": "npz", "dir": str(random_data.write(folder, rows=rows, features=784, seed=settings.seed))}
    raw = {
        "data": data,
        "model": {"name": settings.model, "hidden": list(settings.hidden)},
        "rule": BASELINE,
        "batch_size": settings.batch_size,
        "optimizer": {"name": "sgd", "lr": settings.lr},
        "dtype": settings.dtype,
        "epochs": settings.warmup + settings.steps,
        "max_steps": settings.warmup + settings.steps,
        "ledger": {"every": settings.books_every},
        "probe": {"every": settings.books_every},
        "seed": settings.seed,
        "sync_epochs": 0,
    }
    rows = len(Task.of(parse_spec(raw)).inputs.train)
    if rows < settings.batch_size:
        raise BenchError(
            f"the data set has {rows} rows, not even one batch of {settings.batch_size}; take smaller ones"
        )
    return parse_spec({**raw, "data": {**data, "limit": rows // settings.batch_size * settings.batch_size}})


def _configurations(settings: Settings, spec: RunSpec, task: Task) -> list[Configuration]:
    warmup, deadline, counts = settings.warmup, settings.deadline_seconds, settings.micro_batches
    rules, schedules, sizes = settings.rules, settings.schedules, settings.processes
    return [
        *engines.distfa(spec, task, rules=rules, schedules=schedules, counts=counts, warmup=warmup),
        *engines.single(spec, warmup=warmup, deadline_seconds=deadline),
        *engines.pipelines(
            spec,
            layers=len(task.recipe.network),
            processes=sizes,
            counts=counts,
            warmup=warmup,
            deadline_seconds=deadline,
        ),
    ]


def _compared(rows: list[dict[str, Any]], bounds: dict[str, float]) -> list[dict[str, Any]]:
    """Rows with ratios: to torch in one process on all cores, to the best pipeline, to the bound of their rule."""
    single = [row["samples_per_second"] for row in rows if row.get("threads") == cores()]
    pipelines = [row["samples_per_second"] for row in rows if row["kind"] == "pipeline"]
    return [
        {
            **row,
            "to_single": row["samples_per_second"] / single[0] if single else None,
            "to_pipeline": row["samples_per_second"] / max(pipelines) if pipelines else None,
            "of_bound": row["samples_per_second"] / bounds[row["rule"]] if row.get("rule") in bounds else None,
        }
        for row in rows
    ]


def _notes(settings: Settings, seconds: dict[Product, float], bounds: dict[str, float]) -> list[str]:
    books = f"every {settings.books_every} steps" if settings.books_every else "off"
    return [
        f"medians of {settings.rounds} rounds of {settings.steps} steps after {settings.warmup} of warm-up, in "
        "shuffled order; ratios are of medians; M is the best of one search round before them, which does not count",
        f"{settings.dtype}, SGD; distfa's ledger and probes {books}; a layer has one thread, a stage of a pipeline an "
        f"even share of the {cores()} cores and at least one; processes on one machine, over loopback",
        *(_bound_in_words(seconds, bounds) if bounds else ()),
        "CPU seconds are those of a configuration's own processes, for distfa with Ray's and the coordinator's; 'by "
        "others' is the share of the time of all cores that other programs took",
    ]


def _bound_in_words(seconds: dict[Product, float], bounds: dict[str, float]) -> list[str]:
    flops = sum(product.flops for product in seconds) / sum(seconds.values())
    listed = ", ".join(f"{rule} {limit:,.0f}" for rule, limit in bounds.items())
    return [
        f"compute bound, samples/s: {listed}: the products of a step at the {flops / 1e9:,.1f} GFLOP/s that one core "
        "reaches at these shapes while all work, in CPU time, spread evenly over the cores, each layer on one core"
    ]
