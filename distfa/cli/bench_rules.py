"""``distfa bench rules``: every feedback rule on one task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from distfa.cli.bench import show, words


def rules(
    data: Annotated[str, typer.Option(help="As for 'distfa train'.")] = "digits",
    data_dir: Annotated[str | None, typer.Option(help="As for 'distfa train'.")] = None,
    hidden: Annotated[str, typer.Option(metavar="N,N,...", help="Widths of the hidden layers.")] = "128,128",
    epochs: Annotated[int, typer.Option()] = 20,
    batch_size: Annotated[int, typer.Option()] = 32,
    optimizer: Annotated[str, typer.Option(help="sgd, adam or adamw.")] = "adam",
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 1e-3,
    seeds: Annotated[int, typer.Option(min=1, help="Runs per row; means, and the accuracy's deviation.")] = 1,
    only: Annotated[str, typer.Option("--rules", metavar="RULE,RULE,...", help="A subset; all if not given.")] = "",
    engine: Annotated[str, typer.Option(help="serial (the same bits, no Ray) or ray.")] = "serial",
    out: Annotated[Path, typer.Option(help="Where the figures go.")] = Path("bench-rules.json"),
    as_json: Annotated[bool, typer.Option("--json", help="The file's text on stdout, no table.")] = False,
) -> None:
    """Accuracy, alignment, angle, bytes and ledger of every rule, aligned and random, with bp beside them.

    Bytes per sample are payload, exact, by the rules' widths: what a run on Ray counts.
    """
    from distfa.bench.rules import measure
    from distfa.core.rules import RULES
    from distfa.experiment import spec as specs

    changes: list[tuple[str, Any]] = [
        ("data.name", data),
        ("data.dir", data_dir),
        specs.parse_change(f"model.hidden=[{hidden}]"),
        ("epochs", epochs),
        ("batch_size", batch_size),
        ("optimizer.name", optimizer),
        ("optimizer.lr", lr),
        ("engine", engine),
    ]
    names = words(only) or tuple(RULES)
    outcome = measure(
        specs.load(None, changes), names, seeds=seeds, say=lambda line: typer.echo(f"rules: {line}", err=True)
    )
    show(outcome, out, as_json=as_json)
