"""``distfa eval``: loss and accuracy of the weights a run saved."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from distfa.cli import options


def evaluate(
    run_dir: options.RunDir,
    split: Annotated[str, typer.Option(help="test or train.")] = "test",
    data_dir: Annotated[
        str | None, typer.Option(help="Where the data set lies now, if elsewhere than during the run.")
    ] = None,
    as_json: options.JsonObject = False,
) -> None:
    """Loss and accuracy of a finished run's saved weights, on the data set it was trained on."""
    from distfa.errors import UsageError
    from distfa.experiment import strict_json
    from distfa.experiment.evaluate import evaluate_run

    if split not in ("test", "train"):
        raise UsageError(f"--split is {split!r}; it is test or train")
    found = evaluate_run(run_dir, split=split, data_dir=data_dir)
    if as_json:
        typer.echo(strict_json.dumps(asdict(found)))
        return
    accuracy = "" if found.accuracy is None else f", accuracy {found.accuracy:.2%}"
    typer.echo(f"{found.split}: {found.rows:,} samples, loss {found.loss:.4f}{accuracy}")
