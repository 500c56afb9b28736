"""``distfa bench codecs``: every pair of codecs on one task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from distfa.cli import options
from distfa.cli.bench import say, show

_PAIRS = "fp32/fp32,bf16/bf16,int8/bf16,int8/int8,fp8/fp8,int4/int8,int4/int4,int4/int4sr,packed/fp32"


def codecs(
    data: options.Data = "digits",
    data_dir: options.DataDir = None,
    model: options.Model = "mlp",
    hidden: options.Hidden = "256,256,256",
    epochs: Annotated[int, typer.Option(help="Passes over the training set.")] = 20,
    batch_size: Annotated[int, typer.Option(help="Samples per step.")] = 32,
    optimizer: options.Optimizer = "adam",
    lr: options.LearningRate = 1e-3,
    lr_schedule: Annotated[
        str, typer.Option(help="Schedule of the learning rate: constant, linear or cosine.")
    ] = "constant",
    seeds: options.Seeds = 1,
    rules: Annotated[str, typer.Option(metavar="RULE,RULE,...", help="Feedback rules.")] = "bp,fa,dfa",
    pairs: Annotated[
        str,
        typer.Option(
            "--codecs",
            metavar="UP[/DOWN],...",
            help="Codecs to compare with fp32/fp32: for activations, and for errors if they differ.",
        ),
    ] = _PAIRS,
    out: options.Out = Path("bench-codecs.json"),
    as_json: options.AsJson = False,
) -> None:
    """Measure accuracy, bytes per sample and codec time of every rule with every pair of codecs, compared with fp32.

    This uses the serial engine, which gives the same bits and payloads as a distributed run.
    """
    from distfa.bench.codecs import measure

    flags: dict[str, Any] = {"data.name": data, "data.dir": data_dir, "model.name": model}
    flags |= {"epochs": epochs, "batch_size": batch_size}
    flags |= {"optimizer.name": optimizer, "optimizer.lr": lr, "optimizer.schedule": lr_schedule}
    spec = options.bench_spec(hidden, flags)
    outcome = measure(spec, options.words(rules), options.codec_pairs(pairs), seeds=seeds, say=say("codecs: "))
    show(outcome, out, as_json=as_json)
