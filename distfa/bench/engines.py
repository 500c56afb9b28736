"""The engines of ``distfa bench speed``: distfa by rule and schedule, torch in one process, torch's pipelines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

from distfa.bench import torch_engines
from distfa.bench.options import SpeedOptions
from distfa.bench.rounds import Configuration
from distfa.bench.torch_training import Pipeline
from distfa.core.schedule import flows
from distfa.measuring import ray_run
from distfa.measuring.machine import cores
from distfa.measuring.task import Task
from distfa.settings import RunSpec, parse_spec
from distfa.text.words import pluralize


def contenders(spec: RunSpec, task: Task, options: SpeedOptions) -> list[Configuration]:
    """Everything that is compared, on the task of a spec."""
    how = {"warmup": options.warmup, "deadline_seconds": options.deadline_seconds}
    return [*_distfa(spec, task, options), *_single(spec, how), *_pipelines(spec, task, options, how)]


def _distfa(spec: RunSpec, task: Task, options: SpeedOptions) -> Iterator[Configuration]:
    """distfa on Ray, with every rule, schedule and number of micro-batches."""
    raw = spec.model_dump()
    raw |= {key: raw[key] + options.warmup for key in ("epochs", "max_steps")}  # ray_run leaves as many out at the end
    for rule, schedule, count in product(options.rules, options.schedules, options.micro_batches):
        if schedule == "async" and count < 2:
            continue  # with one micro-batch a layer has nothing to continue with while that is in transit
        mine = parse_spec({**raw, "rule": rule, "schedule": schedule, "micro_batches": count})
        own = replace(task, recipe=mine.recipe(task.recipe.network))
        if flows(own.recipe):  # with fewer micro-batches than layers the pipe would not be full
            yield Configuration(
                family=f"distfa {rule} {schedule}",
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
