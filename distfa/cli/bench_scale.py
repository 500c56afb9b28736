"""``distfa bench scale``."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from distfa.cli.bench import numbers, show

_TASK, _HOW = "The task", "How it is measured"


def scale(
    layers: Annotated[str, typer.Option(metavar="N,N,...", help="Depths.", rich_help_panel=_TASK)] = "2,4,8,16,32",
    micro_batches: Annotated[
        str, typer.Option(metavar="N,N,...", help="Parts of a batch.", rich_help_panel=_TASK)
    ] = "1,4",
    width: Annotated[int, typer.Option(min=1, help="Of every layer.", rich_help_panel=_TASK)] = 256,
    rule: Annotated[str, typer.Option(help="Feedback rule.", rich_help_panel=_TASK)] = "dfa",
    schedule: Annotated[
        str, typer.Option(help="sync, or async with 2 micro-batches and more.", rich_help_panel=_TASK)
    ] = "sync",
    batch_size: Annotated[int, typer.Option(min=1, rich_help_panel=_TASK)] = 256,
    seed: Annotated[int, typer.Option(min=0, rich_help_panel=_TASK)] = 0,
    steps: Annotated[
        int, typer.Option(min=1, help="Steps measured with the most layers; with fewer, more.", rich_help_panel=_HOW)
    ] = 200,
    warmup: Annotated[int, typer.Option(min=1, help="Steps before it.", rich_help_panel=_HOW)] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each.", rich_help_panel=_HOW)] = 3,
    startup: Annotated[
        float, typer.Option(help="Seconds that the layers of one run may take to start.", rich_help_panel=_HOW)
    ] = 300.0,
    out: Annotated[Path, typer.Option(help="Where to write all measurements.", rich_help_panel=_HOW)] = Path(
        "bench-scale.json"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON, no table.", rich_help_panel=_HOW)] = False,
) -> None:
    """Add layers, and see what a step, its messages and a layer's process cost.

    Runs of 2 to 32 layer actors of one width; overhead is what a layer costs beyond the arithmetic it does in one
    process without a wire. With the defaults about 20 minutes on 2 cores.
    """
    from distfa.bench.scale import Settings, run

    settings = Settings(
        layers=numbers("--layers", layers),
        micro_batches=numbers("--micro-batches", micro_batches),
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
    with redirect_stdout(io.StringIO()):  # Ray may speak up on stdout, which belongs to the result
        outcome = run(settings, say=lambda line: typer.echo(line, err=True))
    show(outcome, out, as_json=as_json)
