"""``distfa bench speed``."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from distfa.cli.bench import numbers, show, words

_WHO, _TASK, _HOW = "Who takes part", "The task", "How it is measured"


def speed(
    rules: Annotated[
        str, typer.Option(metavar="R,R,...", help="Rules of distfa: bp, fa, dfa.", rich_help_panel=_WHO)
    ] = "bp,fa,dfa",
    schedules: Annotated[
        str, typer.Option(metavar="S,S,...", help="Schedules of distfa: sync, async.", rich_help_panel=_WHO)
    ] = "sync,async",
    processes: Annotated[
        str,
        typer.Option(metavar="N,N,...", help="Sizes of torch's pipelines; '' for none.", rich_help_panel=_WHO),
    ] = "2,4",
    micro_batches: Annotated[
        str,
        typer.Option(metavar="N,N,...", help="Numbers to try; the best of each goes on.", rich_help_panel=_WHO),
    ] = "1,2,4,8",
    hidden: Annotated[
        str, typer.Option(metavar="N,N,...", help="Widths of the hidden layers.", rich_help_panel=_TASK)
    ] = "1024,1024,1024",
    batch_size: Annotated[int, typer.Option(min=1, rich_help_panel=_TASK)] = 256,
    lr: Annotated[float, typer.Option(help="Of SGD.", rich_help_panel=_TASK)] = 0.01,
    dtype: Annotated[
        str,
        typer.Option(help="float32, float64, or bfloat16: mixed, torch's engines by autocast.", rich_help_panel=_TASK),
    ] = "float32",
    data: Annotated[
        str | None,
        typer.Option(help="A data set, as for train; default: random numbers of MNIST's shape.", rich_help_panel=_TASK),
    ] = None,
    data_dir: Annotated[str | None, typer.Option(help="Its directory.", rich_help_panel=_TASK)] = None,
    seed: Annotated[int, typer.Option(min=0, rich_help_panel=_TASK)] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Steps of a measurement.", rich_help_panel=_HOW)] = 100,
    warmup: Annotated[int, typer.Option(min=1, help="Steps before it.", rich_help_panel=_HOW)] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each.", rich_help_panel=_HOW)] = 5,
    books_every: Annotated[
        int,
        typer.Option(min=0, help="Steps between distfa's ledger entries and probes; 0: none.", rich_help_panel=_HOW),
    ] = 0,
    deadline: Annotated[
        float, typer.Option(help="Seconds that one measurement of a peer may take.", rich_help_panel=_HOW)
    ] = 300.0,
    out: Annotated[Path, typer.Option(help="Where to write all measurements.", rich_help_panel=_HOW)] = Path(
        "bench-speed.json"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON, no table.", rich_help_panel=_HOW)] = False,
) -> None:
    """Race distfa against torch in one process and torch's pipelines, at the same task.

    The same network, weights, samples and order for all; every configuration is measured in every round, in
    shuffled order, in its steady state. With the defaults about 40 minutes on 2 cores.
    """
    from distfa.bench.speed import Settings, run

    settings = Settings(
        rules=words(rules),
        schedules=words(schedules),
        processes=numbers("--processes", processes),
        micro_batches=numbers("--micro-batches", micro_batches),
        hidden=numbers("--hidden", hidden),
        batch_size=batch_size,
        lr=lr,
        dtype=dtype,
        warmup=warmup,
        steps=steps,
        rounds=rounds,
        books_every=books_every,
        data=data,
        data_dir=data_dir,
        seed=seed,
        deadline_seconds=deadline,
    )
    with redirect_stdout(io.StringIO()):  # Ray may speak up on stdout, which belongs to the result
        outcome = run(settings, say=lambda line: typer.echo(line, err=True))
    show(outcome, out, as_json=as_json)
