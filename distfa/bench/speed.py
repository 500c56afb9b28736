"""``distfa bench speed``: distfa, torch's own engines and the limit of the machine, on the same task."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

from distfa.bench import engines, matrix_rate
from distfa.bench.options import SpeedOptions
from distfa.bench.outcome import Outcome
from distfa.bench.pace import Say, paced
from distfa.bench.rounds import Rounds
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


def measure(options: SpeedOptions, say: Say) -> Outcome:
    """Measure everything.

    Raises:
        BenchError: The options cannot be measured.
        DistfaError: The data cannot be read, or Ray cannot be started.
    """
    with tempfile.TemporaryDirectory() as folder:
        spec = _spec(options, Path(folder))
        task = Task.of(spec)
        configurations = engines.contenders(spec, task, options)
        seeded = task.recipe.network.seeded
        named = options.rules if seeded else ()  # the bound knows only the products of plain layers
        made = {rule: counted.step(replace(task.recipe, rule=parse_spec({"rule": rule}).rule)) for rule in named}
        products = [product for layers in made.values() for layer in layers for product in layer]
        rate: dict[str, Any] = {"dtype": options.dtype, "deadline_seconds": options.deadline_seconds}
        sizes = Counter(configuration.family for configuration in configurations).values()
        shots = sum(size for size in sizes if size > 1) + options.rounds * len(sizes)
        rounds, times = Rounds(seed=options.seed, say=paced(say, shots)), []
        start_ray(LOCAL)
        try:
            chosen = rounds.search(configurations)
            for number in range(1, options.rounds + 1):
                rounds.round(number, chosen)
                if products:
                    times.append(matrix_rate.time_products(products, **rate))
        finally:
            stop_ray()
    seconds = {product: median(one[product] for one in times) for product in products}
    bounds = {rule: options.batch_size / matrix_rate.bound(layers, seconds, cores()) for rule, layers in made.items()}
    return Outcome(
        name="speed",
        settings=options.asked(),
        columns=_COLUMNS,
        rows=_compared([row for configuration in chosen if (row := rounds.row(configuration)) is not None], bounds),
        notes=[*_notes(options, seconds, bounds), *rounds.failures],
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


def _spec(options: SpeedOptions, folder: Path) -> RunSpec:
    """The task as a spec of a run with the baseline rule and batches of equal size."""
    if not options.rules:
        raise BenchError("no rule is named, so there is nothing of distfa to measure; name one, such as --rules dfa")
    if options.data is None and options.model != MLP:
        raise BenchError(
            f"random numbers work only for the multi-layer perceptron; name a data set for {options.model!r}"
        )
    steps = options.warmup + options.steps
    fixed: dict[str, Any] = {"rule": BASELINE, "optimizer.name": "sgd", "epochs": steps, "max_steps": steps}
    fixed |= {"ledger.every": options.books_every, "probe.every": options.books_every, "sync_epochs": 0}
    if options.data is None:
        rows = _RANDOM_BATCHES * options.batch_size
        data = random_data.write_samples(folder, rows=rows, features=784, seed=options.seed)
        fixed |= {"data.name": "npz", "data.dir": str(data)}
    rows = len(Task.of(options.spec(fixed)).inputs.train)
    if rows < options.batch_size:
        raise BenchError(
            f"the data set has {rows} rows, not even one batch of {options.batch_size}; use smaller batches"
        )
    return options.spec({**fixed, "data.limit": rows // options.batch_size * options.batch_size})


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


def _notes(options: SpeedOptions, seconds: dict[Product, float], bounds: dict[str, float]) -> list[str]:
    books = f"every {options.books_every} steps" if options.books_every else "off"
    return [
        f"medians of {options.rounds} rounds of {options.steps} steps after {options.warmup} of warm-up, in "
        "shuffled order; ratios are of medians; M is the best of a search round beforehand, which does not count",
        f"{options.dtype}, SGD; distfa's ledger and probes {books}; a layer has one thread, a stage of a pipeline an "
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
