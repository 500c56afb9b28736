"""``distfa bench faults``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from distfa.cli import options
from distfa.cli.bench import quiet, say, show

_task, _how = options.panel("The task"), options.panel("The faults")


def faults(
    data: options.Data = "digits",
    data_dir: options.DataDir = None,
    hidden: options.Hidden = "256,256",
    rule: Annotated[str, _task(help="Feedback rule.")] = "dfa",
    epochs: Annotated[int, _task(min=1, help="Epochs of every run.")] = 20,
    every: Annotated[int, _task(min=1, help="Steps between checkpoints.")] = 20,
    deadline: Annotated[
        float, _task(help="wire.deadline_seconds: how long to wait before a layer counts as hung.")
    ] = 5.0,
    kinds: Annotated[
        str,
        _how(
            metavar="NAME,...",
            help="kill, hang, cut; memory: fill the machine's memory up to RAY_memory_usage_threshold (0.95).",
        ),
    ] = "kill,hang,cut",
    schedules: Annotated[str, _how(metavar="NAME,...", help="sync, async.")] = "sync,async",
    alone: Annotated[
        bool,
        _how("--alone/--no-alone", help="Also make runs with one fault each, in the first, middle and last layer."),
    ] = True,
    soak: Annotated[
        int, _how(min=0, help="Number of faults, of any kind and in any layer, in one more run per schedule.")
    ] = 5,
    every_seconds: Annotated[
        float,
        _how(
            min=0,
            help="Seconds between the faults of that run, until it ends; 0: spread them over its steps.",
        ),
    ] = 0.0,
    seed: Annotated[int, _how(min=0, help="Seed of that run's fault plan.")] = 0,
    out: options.Out = Path("bench-faults.json"),
    as_json: options.AsJson = False,
) -> None:
    """Kill layers, hang them, cut their links, and check that a run loses nothing.

    Every run must end with the weights, losses and books of the serial engine, bit for bit; otherwise the command
    fails. Shows how soon a fault is detected, how soon training resumes, and what it costs. With the defaults it takes
    about 8 minutes on 2 cores.
    """
    from distfa.bench.faults import measure
    from distfa.core.base.recipe import SCHEDULES
    from distfa.runtime.faults import Fault

    known = {fault.value: fault for fault in Fault}
    hit, orders = options.among("--kinds", kinds, known), options.among("--schedules", schedules, SCHEDULES)
    flags = {
        "data.name": data,
        "data.dir": data_dir,
        "rule": rule,
        "epochs": epochs,
        "micro_batches": 4,
        "checkpoint.every": every,
        "checkpoint.seconds": 0,
        "ledger.every": 10,
        "probe.every": 50,
        "wire.deadline_seconds": deadline,
    }
    with quiet():
        outcome = measure(
            options.bench_spec(hidden, flags),
            kinds=[known[name] for name in hit],
            schedules=orders,
            alone=alone,
            soak=soak,
            every_seconds=every_seconds,
            seed=seed,
            say=say("faults: "),
        )
    show(outcome, out, as_json=as_json)
