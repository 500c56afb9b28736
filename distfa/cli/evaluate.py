"""``distfa eval``: loss and accuracy of the weights that a run saved."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from distfa.cli import options


def evaluate(
    run_dir: options.RunDir,
    split: Annotated[str, typer.Option(help="The split to score: test or train.")] = "test",
    data_dir: Annotated[
        str | None, typer.Option(help="Directory of the data set, if it has moved since the run.")
    ] = None,
    as_json: options.JsonObject = False,
) -> None:
    """Print the loss and accuracy of a finished run's weights on the data set it was trained on."""
    from distfa.api.evaluate import evaluate_run
    from distfa.bench.options import among
    from distfa.core.base.metrics import in_words
    from distfa.run.progress import counting
    from distfa.text import strict_json

    among("--split", (split,), ("test", "train"))
    with counting("evaluating", shown=not as_json) as observer:
        found = evaluate_run(run_dir, split=split, data_dir=data_dir, observer=observer)
    if as_json:
        typer.echo(strict_json.dumps(asdict(found)))
        return
    accuracy = "" if found.accuracy is None else f", accuracy {found.accuracy:.2%}"
    typer.echo(f"{found.split}: {found.rows:,} samples, loss {found.loss:.4f}{accuracy}")
    for name, figure in found.metrics.items():
        typer.echo(in_words(name, figure))
