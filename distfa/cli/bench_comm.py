"""``distfa bench comm``: bytes and time to a target accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from distfa.cli import options
from distfa.cli.bench import say, show

_task, _what = options.panel("Task"), options.panel("What to measure")

Mbit = Annotated[
    float,
    _what(
        min=0, help="Rate of every layer's link, each way, by network namespaces (Linux, root); 0: none, bytes only."
    ),
]
Insecure = Annotated[bool, _what("--insecure", help="Plain text over the links, as torch's, not TLS.")]


def comm(
    data: Annotated[str, _task(help="As for 'distfa train'.")] = "digits",
    data_dir: Annotated[str | None, _task(help="As for 'distfa train'.")] = None,
    hidden: Annotated[str, _task(metavar="N,N,...", help="Widths of the hidden layers.")] = "1024,1024,1024",
    batch_size: Annotated[int, _task()] = 256,
    micro_batches: Annotated[int, _task(help="Parts of a batch, for distfa and for torch.")] = 4,
    optimizer: Annotated[str, _task(help="sgd, adam or adamw.")] = "adam",
    lr: Annotated[float, _task(help="Learning rate.")] = 3e-4,
    lr_schedule: Annotated[str, _task(help="constant, or linear or cosine to 0 over --max-steps.")] = "constant",
    seed: Annotated[int, _task(help="Of weights, feedback and data order.")] = 0,
    rules: Annotated[str, _what(metavar="RULE,RULE,...", help="Beside bp.")] = "fa,dfa",
    codecs: Annotated[
        str, _what(metavar="UP[/DOWN],...", help="Beside lossless: of activations, and of errors.")
    ] = "int8",
    target: Annotated[float, _what(help="Test accuracy in percent.")] = 97.5,
    max_steps: Annotated[int, _what(help="Give up on the target after these.")] = 2000,
    eval_steps: Annotated[int, _what(min=1, help="Between evaluations.")] = 50,
    mbit: Mbit = 200.0,
    link_steps: Annotated[int, _what(min=1, help="Steps over the link per configuration.")] = 60,
    warmup: Annotated[int, _what(min=1, help="Steps before those.")] = 5,
    insecure: Insecure = False,
    out: options.Out = Path("bench-comm.json"),
    as_json: options.AsJson = False,
) -> None:
    """Bytes per step, bytes to a target accuracy, and time to it over slow links; torch's pipelines beside it.

    Every layer is a node of its own, a network namespace with a link of --mbit; distfa runs there as a Ray cluster.
    Equal codecs and equal accuracy are columns of their own.
    """
    from distfa.bench.comm import Plan, measure

    flags: dict[str, Any] = {
        "data.name": data,
        "data.dir": data_dir,
        "batch_size": batch_size,
        "micro_batches": micro_batches,
    }
    flags |= {"optimizer.name": optimizer, "optimizer.lr": lr, "optimizer.schedule": lr_schedule, "seed": seed}
    flags |= {"epochs": max_steps, "max_steps": max_steps, "eval_every": max_steps}
    flags |= {"ledger.every": 0, "probe.every": 0, "wire.security": "insecure" if insecure else "auto"}
    plan = Plan(
        base=options.bench_spec(hidden, flags),
        rules=options.words(rules),
        codecs=options.codec_pairs(codecs),
        target=target / 100,
        evaluate_every=eval_steps,
        megabits_per_second=mbit or None,
        warmup=warmup,
        link_steps=link_steps,
    )
    show(measure(plan, say=say("comm: ")), out, as_json=as_json)
