"""``distfa bench checkpoints`` and ``distfa bench tls``: what a setting costs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from distfa.cli import options
from distfa.cli.bench import quiet, say, show

_task, _how = options.panel("The task"), options.panel("The measurement")
_KEEP_ALL = 10**6

Rule = Annotated[str, _task(help="Feedback rule.")]
BatchSize = Annotated[int, _task(min=1, help="Samples per step.")]
Epochs = Annotated[int, _task(min=1, help="Epochs of every run.")]
Schedules = Annotated[str, _how(metavar="NAME,...", help="sync, async.")]
Rounds = Annotated[int, _how(min=1, help="Measurements of each; the table shows medians.")]


def checkpoints(
    data: options.Data = "digits",
    data_dir: options.DataDir = None,
    hidden: options.Hidden = "1024,1024,1024",
    rule: Rule = "dfa",
    batch_size: BatchSize = 256,
    epochs: Epochs = 100,
    engine: Annotated[str, _task(help="ray or serial.")] = "ray",
    every: Annotated[int, _how(min=1, help="Steps between checkpoints.")] = 100,
    schedules: Schedules = "sync,async",
    rounds: Rounds = 3,
    out: options.Out = Path("bench-checkpoints.json"),
    as_json: options.AsJson = False,
) -> None:
    """Train with and without checkpoints, alternately, to see what they cost per step.

    Every snapshot is written: the run waits if the previous one is still being written. With the defaults this takes
    about 8 minutes on 2 cores.
    """
    kept = {"every": every, "seconds": 0, "keep": _KEEP_ALL}
    settings = {"none": {"checkpoint": kept | {"every": 0}}, f"every {every} steps": {"checkpoint": kept}}
    flags = _flags(data, data_dir, rule, batch_size, epochs) | {"engine": engine}
    _measure("checkpoints", hidden, flags, settings, schedules, rounds, out, as_json=as_json)


def tls(
    data: options.Data = "digits",
    data_dir: options.DataDir = None,
    hidden: options.Hidden = "1024,1024,1024",
    rule: Rule = "dfa",
    batch_size: BatchSize = 256,
    epochs: Epochs = 50,
    schedules: Schedules = "sync,async",
    rounds: Rounds = 5,
    out: options.Out = Path("bench-tls.json"),
    as_json: options.AsJson = False,
) -> None:
    """Train over plain text and over mutual TLS, alternately, all on this machine, to see what TLS costs per step.

    With the defaults this takes about 8 minutes on 2 cores.
    """
    settings = {
        name: {"wire": {"security": kind}} for name, kind in (("plain text", "insecure"), ("mutual TLS", "tls"))
    }
    flags = _flags(data, data_dir, rule, batch_size, epochs) | {"checkpoint.every": 0}
    _measure("tls", hidden, flags, settings, schedules, rounds, out, as_json=as_json)


def _flags(data: str, data_dir: str | None, rule: str, batch_size: int, epochs: int) -> dict[str, Any]:
    return {
        "data.name": data,
        "data.dir": data_dir,
        "rule": rule,
        "batch_size": batch_size,
        "epochs": epochs,
        "eval_every": epochs,
        "micro_batches": 4,
        "ledger.every": 0,
        "probe.every": 0,
    }


def _measure(
    name: str,
    hidden: str,
    flags: dict[str, Any],
    settings: Mapping[str, Mapping[str, Any]],
    schedules: str,
    rounds: int,
    out: Path,
    *,
    as_json: bool,
) -> None:
    from distfa.bench.in_turn import measure
    from distfa.core.base.recipe import SCHEDULES

    orders = options.among("--schedules", schedules, SCHEDULES)
    with quiet():
        outcome = measure(
            options.bench_spec(hidden, flags),
            settings,
            name=name,
            schedules=orders,
            rounds=rounds,
            say=say(f"{name}: "),
        )
    show(outcome, out, as_json=as_json)
