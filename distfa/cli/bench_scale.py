"""``distfa bench scale``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from distfa.cli import options
from distfa.cli.bench import quiet, say, show

_task, _how = options.panel("The task"), options.panel("How it is measured")


def scale(
    layers: Annotated[str, _task(metavar="N,N,...", help="Layer counts to measure.")] = "2,4,8,16,32",
    micro_batches: Annotated[str, _task(metavar="N,N,...", help="Parts a batch is split into.")] = "1,4",
    width: Annotated[int, _task(min=1, help="Width of every layer.")] = 256,
    rule: Annotated[str, _task(help="Feedback rule.")] = "dfa",
    schedule: Annotated[str, _task(help="sync, or async with 2 or more micro-batches.")] = "sync",
    batch_size: Annotated[int, _task(min=1, help="Samples per step.")] = 256,
    seed: Annotated[int, _task(min=0, help="Seed of weights, feedback and data.")] = 0,
    steps: Annotated[
        int, _how(min=1, help="Steps measured with the most layers; with fewer layers, more steps.")
    ] = 200,
    warmup: Annotated[int, _how(min=1, help="Warm-up steps that are not measured.")] = 20,
    rounds: Annotated[int, _how(min=1, help="Measurements of each.")] = 3,
    startup: Annotated[float, _how(help="Seconds that the layers of one run may take to start.")] = 300.0,
    out: Annotated[
        Path, options.outcome_file(rich_help_panel="How it is measured", help="Where to write all measurements.")
    ] = Path("bench-scale.json"),
    as_json: Annotated[bool, _how("--json", help="Print the JSON instead of a table.")] = False,
) -> None:
    """Measure what a step, its messages and a layer's process cost as layers are added.

    Runs have 2 to 32 layer actors of equal width; overhead is what a layer costs beyond its arithmetic in a single
    process without a wire. With the defaults this takes about 20 minutes on 2 cores.
    """
    from distfa.bench.scale import Settings, run

    settings = Settings(
        layers=options.numbers("--layers", layers),
        micro_batches=options.numbers("--micro-batches", micro_batches),
        width=width,
        rule=rule,
        schedule=schedule,
        batch_size=batch_size,
        warmup=warmup,
        steps=steps,
        rounds=rounds,
        startup_seconds=startup,
        seed=seed,
    )
    with quiet():
        outcome = run(settings, say=say())
    show(outcome, out, as_json=as_json)
