"""``distfa bench books``: what the books cost, what they catch, and the law they keep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from distfa.cli import options
from distfa.cli.bench import say, show

_RATES = (0.05, 0.025, 0.0125)
_TIME = 2.5


def books(
    data: options.Data = "digits",
    data_dir: options.DataDir = None,
    hidden: Annotated[
        str,
        typer.Option(metavar="N,N,...", help="Widths of the hidden layers; the drift runs use a sixteenth of each."),
    ] = "1024,1024,1024",
    batch_size: Annotated[int, typer.Option(help="Samples per step.")] = 256,
    steps: Annotated[int, typer.Option(help="Steps in each run whose cost is measured.")] = 200,
    rounds: Annotated[int, typer.Option(help="Pairs of runs, with and without books.")] = 5,
    only: Annotated[
        str, typer.Option("--rules", metavar="RULE,...", help="Rules to measure; each must have a potential.")
    ] = "dfa,fa",
    out: Annotated[Path, options.outcome_folder(help="Directory for the JSON files.")] = Path("."),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the text of the files on stdout instead of tables.")
    ] = False,
) -> None:
    """Measure the books: their cost, the smallest fault they catch, and drift at several learning rates.

    Cost: processor time with ledger and probes at their default intervals, divided by the time without them. Faults:
    one number in one float32 message is altered by growing amounts, at every boundary, in both directions. Drift:
    full-batch SGD on 500 rows in float64, with three learning rates over equal training time; by the conservation law,
    drift halves with the rate.
    """
    from distfa import data as datasets
    from distfa.bench import ledger

    flags: dict[str, Any] = {"data.name": data, "data.dir": data_dir, "batch_size": batch_size, "optimizer.lr": 3e-4}
    flags |= {"epochs": 10**6, "max_steps": steps, "engine": "serial"}
    wide = [options.bench_spec(hidden, {**flags, "rule": rule}) for rule in options.words(only)]
    narrow = [
        options.bench_spec(
            ",".join(str(max(1, width // 16)) for width in spec.model.hidden), {**flags, "rule": spec.rule}
        )
        for spec in wide
    ]
    dataset, few = (datasets.load(data, directory=data_dir, limit=limit) for limit in (None, 500))
    told = say("books: ")
    show(ledger.cost(wide, dataset, rounds=rounds, say=told), out / "bench-books-cost.json", as_json=as_json)
    for spec in wide:
        show(ledger.faults(spec, dataset, say=told), out / f"bench-books-faults-{spec.rule}.json", as_json=as_json)
    drift = ledger.drift(narrow, few, rates=_RATES, total_time=_TIME, say=told)
    show(drift, out / "bench-books-drift.json", as_json=as_json)
