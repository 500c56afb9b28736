"""``distfa bench``: measurements, each printing a table and writing its figures as JSON."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from distfa.bench.outcome import Outcome
from distfa.errors import BenchError

app = typer.Typer(
    help="Measure: speed against torch's own engines, bytes and time over shaped links, scaling, the rules. Every "
    "figure is made in this run, side by side; tables go to stdout, all measurements to a JSON file that 'distfa "
    "report' draws.",
    no_args_is_help=True,
)


def words(text: str) -> tuple[str, ...]:
    """``bp,fa`` as its parts."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def numbers(option: str, text: str) -> tuple[int, ...]:
    """``1,2,4`` as numbers.

    Raises:
        BenchError: A part is no number of at least 1.
    """
    for word in words(text):
        if not word.isdecimal() or int(word) < 1:
            raise BenchError(f"{option} {text!r} holds {word!r}; write numbers of at least 1 with commas, as 1,2,4")
    return tuple(int(word) for word in words(text))


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
        cells = [_cell(row.get(key)) for row in outcome.rows]
        width = max(map(len, (*cells, *heading.split())))  # headings wrap, figures do not
        text = all(isinstance(row.get(key), str) for row in outcome.rows)
        table.add_column(escape(heading), justify="left" if text else "right", width=width)
        needed += width + 3
    for row in outcome.rows:
        table.add_row(*(escape(_cell(row.get(key))) for key in outcome.columns))
    console.width = max(console.width, needed)
    console.print(table)
    for note in outcome.notes:
        console.print(f"note: {escape(note)}", highlight=False, soft_wrap=True)
    console.print(f"written to {out}; 'distfa report {out}' draws it", highlight=False, soft_wrap=True)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
