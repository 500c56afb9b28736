"""``distfa bench``: measurements, each printing a table and writing its figures as JSON."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from distfa.bench.outcome import Outcome, cell

app = typer.Typer(
    help="Measure: speed against torch's own engines, bytes and time over shaped links, scaling, the rules. Every "
    "figure is made in this run, side by side; tables go to stdout, all measurements to a JSON file that 'distfa "
    "report' draws.",
    no_args_is_help=True,
)


def say(prefix: str = "") -> Callable[[str], None]:
    """Tells on stderr how it goes."""
    return lambda line: typer.echo(prefix + line, err=True)


def quiet() -> redirect_stdout[io.StringIO]:
    """Ray may speak up on stdout, which belongs to the result."""
    return redirect_stdout(io.StringIO())


def show(outcome: Outcome, out: Path, *, as_json: bool) -> None:
    """Save an outcome and print it: a table, or with ``as_json`` the file's own text."""
    outcome.save(out)
    if as_json:
        typer.echo(out.read_text(), nl=False)
        return
    console = Console()
    table = Table(title=f"distfa bench {outcome.name}", title_justify="left")
    needed = 1
    for key, heading in outcome.columns.items():
        cells = [cell(row.get(key)) for row in outcome.rows]
        width = max(map(len, (*cells, *heading.split())))  # headings wrap, figures do not
        text = all(isinstance(row.get(key), str) for row in outcome.rows)
        table.add_column(escape(heading), justify="left" if text else "right", width=width)
        needed += width + 3
    for row in outcome.rows:
        table.add_row(*(escape(cell(row.get(key))) for key in outcome.columns))
    console.width = max(console.width, needed)
    console.print(table)
    for note in outcome.notes:
        console.print(f"note: {escape(note)}", highlight=False, soft_wrap=True)
    console.print(f"written to {out}; 'distfa report {out}' draws it", highlight=False, soft_wrap=True)
