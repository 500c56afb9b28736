"""``distfa bench comm``: bytes and time to a target accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from distfa.cli import options
from distfa.cli.bench import say, show
from distfa.errors import UsageError

if TYPE_CHECKING:
    from distfa.lab.links.tuned import Search

_task, _what, _search = (
    options.panel("Task"),
    options.panel("What to measure"),
    options.panel("Each rule with its best settings"),
)

Mbit = Annotated[
    float,
    _what(
        min=0,
        help="Rate of every layer's link, in each direction, using network namespaces (Linux, root); 0: no links, "
        "count bytes only.",
    ),
]
Insecure = Annotated[bool, _what("--insecure", help="Use plain text over the links, as torch does, instead of TLS.")]


def comm(
    data: Annotated[str, _task(help="As for 'distfa train'.")] = "digits",
    data_dir: Annotated[str | None, _task(help="As for 'distfa train'.")] = None,
    model: Annotated[str, _task(help="As for 'distfa train'.")] = "mlp",
    hidden: Annotated[str, _task(metavar="N,N,...", help="Widths of the hidden layers.")] = "1024,1024,1024",
    batch_size: Annotated[int, _task(help="Samples per step.")] = 256,
    micro_batches: Annotated[int, _task(help="Parts a batch is split into, for distfa and for torch.")] = 4,
    optimizer: Annotated[str, _task(help="sgd, adam or adamw.")] = "adam",
    lr: Annotated[float, _task(help="Learning rate.")] = 3e-4,
    lr_schedule: Annotated[str, _task(help="constant, or linear or cosine to 0 over --max-steps.")] = "constant",
    seed: Annotated[int, _task(help="Seed of weights, feedback and data order.")] = 0,
    rules: Annotated[
        str, _what(metavar="RULE,RULE,...", help="Rules to compare with bp; dkp@50 is dkp renewed every 50 steps.")
    ] = "fa,dfa",
    codecs: Annotated[
        str,
        _what(
            metavar="UP[/DOWN],...",
            help="Codecs to compare with lossless: for activations, and for errors if they differ.",
        ),
    ] = "int8",
    target: Annotated[float, _what(help="Target test accuracy, in percent.")] = 97.5,
    max_steps: Annotated[int, _what(help="Give up on the target after this many steps.")] = 2000,
    eval_steps: Annotated[int, _what(min=1, help="Steps between evaluations.")] = 50,
    rates: Annotated[
        str, _search(metavar="RATE,RATE,...", help="Learning rates to try for every rule, instead of --lr.")
    ] = "",
    decays: Annotated[
        str,
        _search(
            metavar="N,N,...",
            help="Lengths of cosine decay to try, in steps, instead of --lr-schedule and --max-steps.",
        ),
    ] = "",
    seeds: Annotated[
        int, _search(min=1, help="Number of seeds to compare; figures are medians, with the smallest and the largest.")
    ] = 1,
    mbit: Mbit = 200.0,
    delay_ms: Annotated[
        float,
        _what(
            min=0,
            max=1000,
            help="Delay added to every distfa message, in ms, as on a long link; leaves out torch's pipelines.",
        ),
    ] = 0.0,
    link_steps: Annotated[int, _what(min=1, help="Steps over the link per configuration.")] = 60,
    warmup: Annotated[int, _what(min=1, help="Warm-up steps that are not measured.")] = 5,
    insecure: Insecure = False,
    out: options.Out = Path("bench-comm.json"),
    as_json: options.AsJson = False,
) -> None:
    """Measure bytes per step, and bytes and time to reach a target accuracy over slow links, compared with torch's
    pipelines.

    Every layer is on its own node, a network namespace with a link of --mbit; distfa runs there on a Ray cluster. Equal
    codecs and equal accuracy have separate columns. With --rates and --decays, it first searches for the best settings
    of every rule, including bp; the report includes the search.
    """
    from distfa.lab.links.comm import Plan, measure

    flags: dict[str, Any] = {
        "data.name": data,
        "data.dir": data_dir,
        "model.name": model,
        "batch_size": batch_size,
        "micro_batches": micro_batches,
    }
    flags |= {"optimizer.name": optimizer, "optimizer.lr": lr, "optimizer.schedule": lr_schedule, "seed": seed}
    flags |= {"epochs": max_steps, "max_steps": max_steps, "eval_every": max_steps}
    flags |= {
        "wire.delay_ms": delay_ms,
        "ledger.every": 0,
        "probe.every": 0,
        "wire.security": "insecure" if insecure else "auto",
    }
    plan = Plan(
        base=options.bench_spec(hidden, flags),
        rules=options.words(rules),
        codecs=options.codec_pairs(codecs),
        target=target / 100,
        evaluate_every=eval_steps,
        megabits_per_second=mbit or None,
        warmup=warmup,
        link_steps=link_steps,
        search=_searched(rates, decays, seeds),
    )
    show(measure(plan, say=say("comm: ")), out, as_json=as_json)


def _searched(rates: str, decays: str, seeds: int) -> Search:
    """The settings to try.

    Raises:
        UsageError: One of the two is given without the other, or is not made of numbers above 0.
    """
    from distfa.lab.links.tuned import Search

    if bool(rates) != bool(decays):
        raise UsageError("--rates and --decays must be given together: every rate is tried with every decay")
    return Search(
        rates=options.rates("--rates", rates), decays=options.numbers("--decays", decays, may_be_none=True), seeds=seeds
    )
