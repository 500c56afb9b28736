"""``distfa report``: a run, or a benchmark's file, as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_DIR | BENCH.json", help="Run directory, as 'distfa train' prints it, or 'distfa bench's file."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Where the page goes; RUN_DIR/report.html, or BENCH.html, if not given."),
    ] = None,
) -> None:
    """One interactive HTML page of a run, finished or not, or of a benchmark; it needs no network."""
    from distfa.bench.page import write_bench_report
    from distfa.experiment.report import write_report

    typer.echo(write_bench_report(path, out) if path.is_file() else write_report(path, out))
