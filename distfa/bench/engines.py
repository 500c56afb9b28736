"""The engines of ``distfa bench speed``: distfa by rule and schedule, torch in one process, torch's pipelines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product

from distfa.bench import torch_engines
from distfa.bench.rounds import Configuration
from distfa.bench.torch_engines import Pipeline
from distfa.core.schedule import flows
from distfa.measuring import ray_run
from distfa.measuring.machine import cores
from distfa.measuring.task import Task
from distfa.settings import RunSpec, parse_spec
from distfa.text.words import counted


def distfa(
    spec: RunSpec, task: Task, *, rules: Sequence[str], schedules: Sequence[str], counts: Sequence[int], warmup: int
) -> Iterator[Configuration]:
    """distfa on Ray, with every rule, schedule and number of micro-batches."""
    raw = spec.model_dump()
    raw |= {key: raw[key] + warmup for key in ("epochs", "max_steps")}  # ray_run leaves as many out at the end
    for rule, schedule, count in product(rules, schedules, counts):
        if schedule == "async" and count < 2:
            continue  # with one micro-batch a layer has nothing to go on with while that is under way
        mine = parse_spec({**raw, "rule": rule, "schedule": schedule, "micro_batches": count})
        own = replace(task, recipe=mine.recipe(task.recipe.network))
        if flows(own.recipe):  # with fewer micro-batches than layers the pipe would not be full
            yield Configuration(
                family=f"distfa {rule} {schedule}",
                micro_batches=count,
                measure=partial(ray_run.run, mine, own, warmup=warmup),
                about={"kind": "distfa", "rule": rule},
            )


def single(spec: RunSpec, *, warmup: int, deadline_seconds: float) -> Iterator[Configuration]:
    """torch in one process, with one thread and with as many threads as cores."""
    run = partial(torch_engines.run_single, spec, warmup=warmup, deadline_seconds=deadline_seconds)
    for threads in sorted({1, cores()}):
        yield Configuration(
            family=f"torch one process, {counted(threads, 'thread')}",
            micro_batches=None,
            measure=partial(run, threads=threads),
            about={"kind": "single", "threads": threads},
        )


def pipelines(
    spec: RunSpec,
    *,
    layers: int,
    processes: Sequence[int],
    counts: Sequence[int],
    warmup: int,
    deadline_seconds: float,
) -> Iterator[Configuration]:
    """torch's pipelines of every size and schedule, with every number of micro-batches that they take."""
    for size, schedule, count in product(processes, torch_engines.SCHEDULES, counts):
        if schedule == "1f1b" and count < size:
            continue  # torch refuses it
        pipeline = Pipeline(layers=layers, processes=size, schedule=schedule, micro_batches=count)
        torch_engines.check(spec, pipeline)
        yield Configuration(
            family=f"torch {schedule}, {size} processes",
            micro_batches=count,
            measure=partial(
                torch_engines.run_pipeline, spec, pipeline, warmup=warmup, deadline_seconds=deadline_seconds
            ),
            about={"kind": "pipeline"},
        )
