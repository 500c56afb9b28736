"""``distfa bench speed``: distfa, torch's own engines and the limit of the machine, on the same task."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from distfa.bench import matrix_rate, torch_engines
from distfa.bench.options import SpeedOptions
from distfa.bench.outcome import Outcome
from distfa.bench.pace import Say, paced
from distfa.bench.rounds import Configuration, Rounds
from distfa.bench.torch_training import Pipeline
from distfa.core.rules import BASELINE
from distfa.core.schedule import flows
from distfa.costs import counted
from distfa.costs.arithmetic import Product
from distfa.errors import BenchError
from distfa.measuring import random_data, ray_run
from distfa.measuring.machine import cores
from distfa.measuring.task import Task
from distfa.runtime.ray.cluster import LOCAL, start_ray, stop_ray
from distfa.settings import MLP, RunSpec, amend, parse_spec
from distfa.text.words import pluralize

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
        configurations = _contenders(spec, task, options)
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
        settings=options.as_dict(),
        columns=_COLUMNS,
        rows=_compare([row for configuration in chosen if (row := rounds.row(configuration)) is not None], bounds),
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


def _compare(rows: list[dict[str, Any]], bounds: dict[str, float]) -> list[dict[str, Any]]:
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
        f"{options.dtype}, SGD; distfa's ledger and probes {books}; a layer with a worker to itself has one thread, "
        f"one of --workers and a stage of a pipeline an even share of the {cores()} cores and at least one; processes "
        "on one machine, over loopback",
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


def _contenders(spec: RunSpec, task: Task, options: SpeedOptions) -> list[Configuration]:
    """Everything that is compared, on the task of a spec."""
    how = {"warmup": options.warmup, "deadline_seconds": options.deadline_seconds}
    return [*_distfa(spec, task, options), *_single(spec, how), *_pipelines(spec, task, options, how)]


def _distfa(spec: RunSpec, task: Task, options: SpeedOptions) -> Iterator[Configuration]:
    """distfa on Ray, with every rule, schedule, number of workers and of micro-batches."""
    steps = spec.epochs + options.warmup  # ray_run leaves as many out at the end
    tried = product(options.rules, options.schedules, options.workers or (None,), options.micro_batches)
    for rule, schedule, workers, count in tried:
        if schedule == "async" and count < 2:
            continue  # with one micro-batch a layer has nothing to continue with while that is in transit
        keys = {"rule": rule, "schedule": schedule, "micro_batches": count, "epochs": steps, "max_steps": steps}
        if workers is not None:
            keys |= {"ray.workers": workers, "threads": max(1, cores() // workers)}
        mine = amend(spec, keys)
        own = replace(task, recipe=mine.recipe(task.recipe.network))
        if flows(own.recipe):  # with fewer micro-batches than layers the pipe would not be full
            yield Configuration(
                family=f"distfa {rule} {schedule}" + (f", {pluralize(workers, 'worker')}" if workers else ""),
                micro_batches=count,
                measure=partial(ray_run.run_on_ray, mine, own, warmup=options.warmup),
                about={"kind": "distfa", "rule": rule},
            )


def _single(spec: RunSpec, how: dict[str, Any]) -> Iterator[Configuration]:
    """torch in one process, with one thread and with as many threads as cores."""
    for threads in sorted({1, cores()}):
        yield Configuration(
            family=f"torch one process, {pluralize(threads, 'thread')}",
            micro_batches=None,
            measure=partial(torch_engines.run_single, spec, threads=threads, **how),
            about={"kind": "single", "threads": threads},
        )


def _pipelines(spec: RunSpec, task: Task, options: SpeedOptions, how: dict[str, Any]) -> Iterator[Configuration]:
    """torch's pipelines of every size and schedule, with every number of micro-batches that they take."""
    layers = len(task.recipe.network)
    for size, schedule, count in product(options.processes, torch_engines.SCHEDULES, options.micro_batches):
        if schedule == "1f1b" and count < size:
            continue  # torch refuses it
        pipeline = Pipeline(layers=layers, processes=size, schedule=schedule, micro_batches=count)
        torch_engines.check(spec, pipeline)
        yield Configuration(
            family=f"torch {schedule}, {size} processes",
            micro_batches=count,
            measure=partial(torch_engines.run_pipeline, spec, pipeline, **how),
            about={"kind": "pipeline"},
        )
