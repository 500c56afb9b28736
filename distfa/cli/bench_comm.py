"""``distfa bench comm``: bytes and time to a target accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from distfa.cli.bench import show, words

_TASK, _WHAT = "Task", "What to measure"


def comm(
    data: Annotated[str, typer.Option(help="As for 'distfa train'.", rich_help_panel=_TASK)] = "digits",
    data_dir: Annotated[str | None, typer.Option(help="As for 'distfa train'.", rich_help_panel=_TASK)] = None,
    hidden: Annotated[
        str, typer.Option(metavar="N,N,...", help="Widths of the hidden layers.", rich_help_panel=_TASK)
    ] = "1024,1024,1024",
    batch_size: Annotated[int, typer.Option(rich_help_panel=_TASK)] = 256,
    micro_batches: Annotated[
        int, typer.Option(help="Parts of a batch, for distfa and for torch.", rich_help_panel=_TASK)
    ] = 4,
    optimizer: Annotated[str, typer.Option(help="sgd, adam or adamw.", rich_help_panel=_TASK)] = "adam",
    lr: Annotated[float, typer.Option(help="Learning rate.", rich_help_panel=_TASK)] = 3e-4,
    lr_schedule: Annotated[
        str, typer.Option(help="constant, or linear or cosine to 0 over --max-steps.", rich_help_panel=_TASK)
    ] = "constant",
    seed: Annotated[int, typer.Option(help="Of weights, feedback and data order.", rich_help_panel=_TASK)] = 0,
    rules: Annotated[str, typer.Option(metavar="RULE,RULE,...", help="Beside bp.", rich_help_panel=_WHAT)] = "fa,dfa",
    codecs: Annotated[
        str,
        typer.Option(
            metavar="UP[/DOWN],...", help="Beside lossless: of activations, and of errors.", rich_help_panel=_WHAT
        ),
    ] = "int8",
    target: Annotated[float, typer.Option(help="Test accuracy in percent.", rich_help_panel=_WHAT)] = 97.5,
    max_steps: Annotated[int, typer.Option(help="Give up on the target after these.", rich_help_panel=_WHAT)] = 2000,
    eval_steps: Annotated[int, typer.Option(min=1, help="Between evaluations.", rich_help_panel=_WHAT)] = 50,
    mbit: Annotated[
        float,
        typer.Option(
            min=0,
            help="Rate of every layer's link, each way, by network namespaces (Linux, root); 0: none, bytes only.",
            rich_help_panel=_WHAT,
        ),
    ] = 200.0,
    link_steps: Annotated[
        int, typer.Option(min=1, help="Steps over the link per configuration.", rich_help_panel=_WHAT)
    ] = 60,
    warmup: Annotated[int, typer.Option(min=1, help="Steps before those.", rich_help_panel=_WHAT)] = 5,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Plain text over the links, as torch's, not TLS.", rich_help_panel=_WHAT)
    ] = False,
    out: Annotated[Path, typer.Option(help="Where the figures go.")] = Path("bench-comm.json"),
    as_json: Annotated[bool, typer.Option("--json", help="The file's text on stdout, no table.")] = False,
) -> None:
    """Bytes per step, bytes to a target accuracy, and time to it over slow links; torch's pipelines beside it.

    Every layer is a node of its own, a network namespace with a link of --mbit; distfa runs there as a Ray cluster.
    Equal codecs and equal accuracy are columns of their own.
    """
    from distfa.bench.comm import Plan, measure
    from distfa.experiment import spec as specs

    changes: list[tuple[str, Any]] = [
        ("data.name", data),
        ("data.dir", data_dir),
        specs.parse_change(f"model.hidden=[{hidden}]"),
        ("batch_size", batch_size),
        ("micro_batches", micro_batches),
        ("optimizer.name", optimizer),
        ("optimizer.lr", lr),
        ("optimizer.schedule", lr_schedule),
        ("seed", seed),
        ("epochs", max_steps),
        ("max_steps", max_steps),
        ("eval_every", max_steps),
        ("ledger.every", 0),
        ("probe.every", 0),
        ("wire.security", "insecure" if insecure else "auto"),
    ]
    plan = Plan(
        base=specs.load(None, changes),
        rules=words(rules),
        codecs=[(up, down or up) for up, _, down in (pair.partition("/") for pair in words(codecs))],
        target=target / 100,
        evaluate_every=eval_steps,
        megabits_per_second=mbit or None,
        warmup=warmup,
        link_steps=link_steps,
    )
    outcome = measure(plan, say=lambda line: typer.echo(f"comm: {line}", err=True))
    show(outcome, out, as_json=as_json)
