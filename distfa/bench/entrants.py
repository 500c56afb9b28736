"""Who takes part in ``distfa bench speed``: distfa by rule and schedule, torch in one process, torch's pipelines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from distfa.bench import layers, torch_pipeline, torch_single
from distfa.bench.contest import Entrant
from distfa.bench.machine import cores
from distfa.bench.steady import Steady
from distfa.bench.torch_pipeline import Pipeline
from distfa.bench.work import Work
from distfa.core.schedule import flows
from distfa.experiment.spec import RunSpec, parse


def distfa(
    spec: RunSpec, work: Work, *, rules: Sequence[str], schedules: Sequence[str], counts: Sequence[int], warmup: int
) -> Iterator[Entrant]:
    """distfa on Ray, by every rule and schedule with every number of micro-batches."""
    raw = spec.model_dump()
    raw |= {key: raw[key] + warmup for key in ("epochs", "max_steps")}  # layers.run leaves them out at the end
    for rule in rules:
        for schedule in schedules:
            for count in counts:
                if schedule == "async" and count < 2:
                    continue  # a layer has nothing to go on with while its only micro-batch is under way
                mine = parse({**raw, "rule": rule, "schedule": schedule, "micro_batches": count})
                task = replace(work, recipe=mine.recipe(work.recipe.network))
                if not flows(task.recipe):
                    continue  # fewer micro-batches than layers do not fill the pipe
                yield Entrant(
                    family=f"distfa {rule} {schedule}",
                    micro_batches=count,
                    measure=partial(_layers, mine, task, warmup),
                    about={"kind": "distfa", "rule": rule},
                )


def single(spec: RunSpec, *, warmup: int, deadline_seconds: float) -> Iterator[Entrant]:
    """torch in one process, on one thread and on as many as there are cores."""
    for threads in sorted({1, cores()}):
        yield Entrant(
            family=f"torch one process, {threads} thread{'s' if threads > 1 else ''}",
            micro_batches=None,
            measure=partial(_single, spec, threads, warmup, deadline_seconds),
            about={"kind": "single", "threads": threads},
        )


def pipelines(
    spec: RunSpec, *, processes: Sequence[int], counts: Sequence[int], warmup: int, deadline_seconds: float
) -> Iterator[Entrant]:
    """torch's pipelines of every size and schedule with every number of micro-batches it takes."""
    for size in processes:
        for schedule in torch_pipeline.SCHEDULES:
            for count in counts:
                if schedule == "1f1b" and count < size:
                    continue  # torch refuses it
                pipeline = Pipeline(processes=size, schedule=schedule, micro_batches=count)
                torch_pipeline.check(spec, pipeline)
                yield Entrant(
                    family=f"torch {schedule}, {size} processes",
                    micro_batches=count,
                    measure=partial(_pipeline, spec, pipeline, warmup, deadline_seconds),
                    about={"kind": "pipeline"},
                )


def _layers(spec: RunSpec, work: Work, warmup: int) -> Steady:
    return layers.run(spec, work, warmup=warmup).steady


def _single(spec: RunSpec, threads: int, warmup: int, deadline_seconds: float) -> Steady:
    return torch_single.run(spec, threads=threads, warmup=warmup, deadline_seconds=deadline_seconds).steady


def _pipeline(spec: RunSpec, pipeline: Pipeline, warmup: int, deadline_seconds: float) -> Steady:
    return torch_pipeline.run(spec, pipeline, warmup=warmup, deadline_seconds=deadline_seconds).measured()
