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
    model: options.Model = "mlp",
    hidden: options.Hidden = "128,128",
    epochs: Annotated[int, typer.Option(help="Passes over the training set.")] = 20,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Stop after this many steps.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first samples of each split.")] = None,
    batch_size: Annotated[int, typer.Option(help="Samples per step.")] = 32,
    optimizer: options.Optimizer = "adam",
    lr: options.LearningRate = 1e-3,
    lr_schedule: Annotated[str, typer.Option(help="constant, or linear or cosine to 0 over all steps.")] = "constant",
    seeds: options.Seeds = 1,
    only: Annotated[
        str,
        typer.Option(
            "--rules",
            metavar="RULE,RULE,...",
            help="Rules to train; dkp@50 is dkp renewed every 50 steps; default: all.",
        ),
    ] = "",
    inits: Annotated[
        str,
        typer.Option(
            metavar="INIT,...", help="aligned, random, or both, for rules whose feedback depends on the start."
        ),
    ] = "aligned,random",
    torch: Annotated[
        bool,
        typer.Option(
            "--torch", help="Also train in plain torch, from the same start, with the same data in the same order."
        ),
    ] = False,
    engine: Annotated[str, typer.Option(help="serial (the same bits, no Ray) or ray.")] = "serial",
    device: Annotated[
        str, typer.Option(help="cpu, cuda or auto (on Ray, a GPU if there is one). Does not apply to --torch.")
    ] = "auto",
    out: options.Out = Path("bench-rules.json"),
    as_json: options.AsJson = False,
) -> None:
    """Measure accuracy, alignment, angle, bytes and ledger of every rule, aligned and random, compared with bp.

    Bytes per sample are exact payload bytes computed from each rule's widths: what a run on Ray counts.
    """
    from distfa.bench.rules import INITS, measure
    from distfa.core.rules import RULES

    flags: dict[str, Any] = {"data.name": data, "data.dir": data_dir, "epochs": epochs, "batch_size": batch_size}
    flags |= {"optimizer.name": optimizer, "optimizer.lr": lr, "engine": engine, "model.name": model}
    flags |= {"device": device, "optimizer.schedule": lr_schedule, "max_steps": max_steps, "data.limit": limit}
    spec, names = options.bench_spec(hidden, flags), options.words(only) or tuple(RULES)
    found = measure(
        spec, names, seeds=seeds, inits=options.among("--inits", inits, INITS), beside_torch=torch, say=say("rules: ")
    )
    show(found, out, as_json=as_json)
