"""``distfa bench rules``: every feedback rule on one task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from distfa.cli import options
from distfa.cli.bench import say, show


def rules(
    data: options.Data = "digits",
    data_dir: options.DataDir = None,
    hidden: options.Hidden = "128,128",
    epochs: int = 20,
    batch_size: int = 32,
    optimizer: options.Optimizer = "adam",
    lr: options.LearningRate = 1e-3,
    seeds: options.Seeds = 1,
    only: Annotated[str, typer.Option("--rules", metavar="RULE,RULE,...", help="A subset; all if not given.")] = "",
    engine: Annotated[str, typer.Option(help="serial (the same bits, no Ray) or ray.")] = "serial",
    out: options.Out = Path("bench-rules.json"),
    as_json: options.AsJson = False,
) -> None:
    """Accuracy, alignment, angle, bytes and ledger of every rule, aligned and random, with bp beside them.

    Bytes per sample are payload, exact, by the rules' widths: what a run on Ray counts.
    """
    from distfa.bench.rules import measure
    from distfa.core.rules import RULES

    flags: dict[str, Any] = {"data.name": data, "data.dir": data_dir, "epochs": epochs, "batch_size": batch_size}
    flags |= {"optimizer.name": optimizer, "optimizer.lr": lr, "engine": engine}
    names = options.words(only) or tuple(RULES)
    show(measure(options.bench_spec(hidden, flags), names, seeds=seeds, say=say("rules: ")), out, as_json=as_json)
