"""``distfa bench checkpoints``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from distfa.cli import options
from distfa.cli.bench import quiet, say, show

_task, _how = options.panel("The task"), options.panel("The measurement")


def checkpoints(
    data: options.Data = "digits",
    data_dir: options.DataDir = None,
    hidden: options.Hidden = "1024,1024,1024",
    rule: Annotated[str, _task(help="Feedback rule.")] = "dfa",
    batch_size: Annotated[int, _task(min=1, help="Rows of a step.")] = 256,
    epochs: Annotated[int, _task(min=1, help="Length of every run.")] = 100,
    engine: Annotated[str, _task(help="ray or serial.")] = "ray",
    every: Annotated[int, _how(min=1, help="Steps between checkpoints.")] = 100,
    schedules: Annotated[str, _how(metavar="NAME,...", help="sync, async.")] = "sync,async",
    rounds: Annotated[int, _how(min=1, help="How often each; medians are shown.")] = 3,
    out: options.Out = Path("bench-checkpoints.json"),
    as_json: options.AsJson = False,
) -> None:
    """Train with checkpoints and without, in turn, and see what they cost a step.

    Every cut is written: the run waits where one is still being written. With the defaults about 8 minutes on 2 cores.
    """
    from distfa.bench.checkpoints import measure

    flags = {
        "data.name": data,
        "data.dir": data_dir,
        "rule": rule,
        "batch_size": batch_size,
        "epochs": epochs,
        "eval_every": epochs,
        "micro_batches": 4,
        "engine": engine,
        "ledger.every": 0,
        "probe.every": 0,
    }
    with quiet():
        outcome = measure(
            options.bench_spec(hidden, flags),
            every=every,
            schedules=options.words(schedules),
            rounds=rounds,
            say=say("checkpoints: "),
        )
    show(outcome, out, as_json=as_json)
