"""``distfa predict``: what a finished run says about new samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from distfa.cli import options


def predict(
    run_dir: options.RunDir,
    samples: Annotated[
        Path, typer.Argument(help="Raw samples: .npy, .npz (x, test_x, or its only array), or .csv with column names.")
    ],
    out: Annotated[
        Path | None, options.outcome_file(help="A .npy file for the raw outputs: logits, or quantities.")
    ] = None,
    normalised: Annotated[
        bool | None,
        typer.Option(
            "--normalised/--raw",
            help="Whether the samples are already normalised; if not given, decided by their values.",
        ),
    ] = None,
    as_json: options.JsonObject = False,
) -> None:
    """Print the class of every sample, or its quantities, one per line.

    Samples are read as the run read its own: with the same normalisation, and columns by name, in any order.
    """
    from distfa.api.predict import predict_run, read_samples
    from distfa.run.progress import counting
    from distfa.text import strict_json

    with counting("predicting", shown=not as_json) as observer:
        found = predict_run(run_dir, read_samples(samples), normalised=normalised, observer=observer)
    if as_json:
        typer.echo(strict_json.dumps({"rows": len(found.outputs), "answers": found.answers}))
    else:
        typer.echo("\n".join(map(_line, found.answers)))
    if out is not None:
        found.save(out)


def _line(answer: Any) -> str:
    return ",".join(map(_line, answer)) if isinstance(answer, list) else str(answer)
