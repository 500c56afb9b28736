"""``distfa bench speed``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from distfa.cli import options
from distfa.cli.bench import quiet, say, show

_who, _task = options.panel("What to compare"), options.panel("The task")
_how = options.panel("How it is measured")

DType = Annotated[str, _task(help="float32, float64, or bfloat16 (mixed precision; in torch's engines, autocast).")]
Data = Annotated[str | None, _task(help="Data set, as for 'distfa train'; default: random numbers of MNIST's shape.")]
Counts = Annotated[
    str, _who(metavar="N,N,...", help="Micro-batch counts to try; each contender is measured with its best.")
]
BooksEvery = Annotated[int, _how(min=0, help="Steps between distfa's ledger entries and probes; 0: none.")]


def speed(
    rules: Annotated[
        str, _who(metavar="R,R,...", help="distfa's rules to compare; 'distfa rules' lists them.")
    ] = "bp,fa,dfa",
    schedules: Annotated[
        str, _who(metavar="S,S,...", help="distfa's schedules to compare: sync, async.")
    ] = "sync,async",
    processes: Annotated[
        str, _who(metavar="N,N,...", help="Numbers of processes for torch's pipelines; '' for none.")
    ] = "2,4",
    micro_batches: Counts = "1,2,4,8",
    model: Annotated[str, _task(help="As for 'distfa train'; any model but mlp needs --data.")] = "mlp",
    hidden: Annotated[str, _task(metavar="N,N,...", help="Widths of the hidden layers.")] = "1024,1024,1024",
    batch_size: Annotated[int, _task(min=1, help="Samples per step.")] = 256,
    lr: Annotated[float, _task(help="Learning rate of SGD.")] = 0.01,
    dtype: DType = "float32",
    data: Data = None,
    data_dir: Annotated[str | None, _task(help="Directory of the data set.")] = None,
    seed: Annotated[int, _task(min=0, help="Seed of weights, feedback and data.")] = 0,
    steps: Annotated[int, _how(min=1, help="Steps per measurement.")] = 100,
    warmup: Annotated[int, _how(min=1, help="Warm-up steps that are not measured.")] = 20,
    rounds: Annotated[int, _how(min=1, help="Measurements of each.")] = 5,
    books_every: BooksEvery = 0,
    deadline: Annotated[float, _how(help="Longest time for one measurement of torch, in seconds.")] = 300.0,
    out: Annotated[
        Path, options.outcome_file(rich_help_panel="How it is measured", help="Where to write all measurements.")
    ] = Path("bench-speed.json"),
    as_json: Annotated[bool, _how("--json", help="Print the JSON instead of a table.")] = False,
) -> None:
    """Compare the speed of distfa with torch in one process and torch's pipelines, on the same task.

    All use the same network, weights, samples and order. Every configuration is measured in every round, in shuffled
    order, in its steady state. With the defaults this takes about 40 minutes on 2 cores.
    """
    from distfa.bench.speed import Settings, run

    settings = Settings(
        rules=options.words(rules),
        schedules=options.words(schedules),
        processes=options.numbers("--processes", processes, may_be_none=True),
        micro_batches=options.numbers("--micro-batches", micro_batches),
        model=model,
        hidden=options.numbers("--hidden", hidden, may_be_none=True),
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
    with quiet():
        outcome = run(settings, say=say())
    show(outcome, out, as_json=as_json)
