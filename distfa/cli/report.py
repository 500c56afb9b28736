"""``distfa report``: a run, several runs, or the file of a benchmark as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distfa.cli import options


def report(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN_DIR ... | BENCH.json",
            help="Run directory, as 'distfa train' prints it; several, to compare them; or the JSON file of a "
            "benchmark.",
        ),
    ],
    out: Annotated[
        Path | None,
        options.outcome_file(help="File for the page; default: RUN_DIR/report.html, comparison.html or BENCH.html."),
    ] = None,
    shared: Annotated[
        bool,
        typer.Option(
            "--shared/--inline",
            help="Put plotly's 4.8 MB into one file shared by all pages in a folder, instead of into each page.",
        ),
    ] = False,
) -> None:
    """Write an interactive HTML page about a run (finished or not), several runs, or a benchmark; it works offline."""
    from distfa.bench.page import write_bench_report
    from distfa.report import write_comparison, write_report

    if len(paths) > 1:
        typer.echo(write_comparison(paths, out, shared=shared))
        return
    (path,) = paths
    typer.echo(
        write_bench_report(path, out, shared=shared) if path.is_file() else write_report(path, out, shared=shared)
    )
