"""``distfa report``: a run as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run_dir: Annotated[Path, typer.Argument(help="Run directory, as 'distfa train' prints it.")],
    out: Annotated[Path | None, typer.Option(help="Where the page goes; RUN_DIR/report.html if not given.")] = None,
) -> None:
    """One interactive HTML page of a run, finished or not; it needs no network."""
    from distfa.experiment.report import write_report

    typer.echo(write_report(run_dir, out))
