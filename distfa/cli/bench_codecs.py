"""``distfa bench codecs``: every pair of codecs on one task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from distfa.cli.bench import show, words

_PAIRS = "fp32/fp32,bf16/bf16,int8/bf16,int8/int8,fp8/fp8,int4/int8,int4/int4,int4/int4sr,packed/fp32"


def codecs(
    data: Annotated[str, typer.Option(help="As for 'distfa train'.")] = "digits",
    data_dir: Annotated[str | None, typer.Option(help="As for 'distfa train'.")] = None,
    hidden: Annotated[str, typer.Option(metavar="N,N,...", help="Widths of the hidden layers.")] = "256,256,256",
    epochs: Annotated[int, typer.Option()] = 20,
    batch_size: Annotated[int, typer.Option()] = 32,
    optimizer: Annotated[str, typer.Option(help="sgd, adam or adamw.")] = "adam",
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 1e-3,
    lr_schedule: Annotated[str, typer.Option(help="Of the learning rate: constant, linear or cosine.")] = "constant",
    seeds: Annotated[int, typer.Option(min=1, help="Runs per row; means, and the accuracy's deviation.")] = 1,
    rules: Annotated[str, typer.Option(metavar="RULE,RULE,...", help="Feedback rules.")] = "bp,fa,dfa",
    pairs: Annotated[
        str,
        typer.Option(
            "--codecs", metavar="UP[/DOWN],...", help="Beside fp32/fp32: of activations, and of errors if not the same."
        ),
    ] = _PAIRS,
    out: Annotated[Path, typer.Option(help="Where the figures go.")] = Path("bench-codecs.json"),
    as_json: Annotated[bool, typer.Option("--json", help="The file's text on stdout, no table.")] = False,
) -> None:
    """Accuracy, bytes per sample and codec time of every rule with every pair of codecs, fp32 beside them.

    On the serial engine, which has the bits and the payloads of a distributed run.
    """
    from distfa.bench.codecs import measure
    from distfa.experiment import spec as specs

    changes: list[tuple[str, Any]] = [
        ("data.name", data),
        ("data.dir", data_dir),
        specs.parse_change(f"model.hidden=[{hidden}]"),
        ("epochs", epochs),
        ("batch_size", batch_size),
        ("optimizer.name", optimizer),
        ("optimizer.lr", lr),
        ("optimizer.schedule", lr_schedule),
    ]
    outcome = measure(
        specs.load(None, changes),
        words(rules),
        [(up, down or up) for up, _, down in (pair.partition("/") for pair in words(pairs))],
        seeds=seeds,
        say=lambda line: typer.echo(f"codecs: {line}", err=True),
    )
    show(outcome, out, as_json=as_json)
