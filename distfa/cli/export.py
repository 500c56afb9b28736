"""``distfa export``: the model of a run as one file that does not need distfa."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distfa.cli import options


def export(
    run_dir: options.RunDir,
    out: Annotated[
        Path | None, options.outcome_file(help="Output file, .pt2 or .onnx; default: RUN_DIR/model.pt2.")
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(help="torch, or onnx (pip install 'distfa\\[onnx]'); default: by the file's extension."),
    ] = None,
) -> None:
    """Write a run's model as one file that includes weights and normalisation: raw samples in, outputs out.

    The file needs neither distfa nor the model's code: torch.export.load(FILE).module()(x), or any ONNX runtime.
    """
    from distfa.api.export import export_run

    typer.echo(export_run(run_dir, out, format=format))
