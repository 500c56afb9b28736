"""Printing for commands: errors on stderr, tables."""

from __future__ import annotations

from collections.abc import Container, Iterable

from rich.console import Console
from rich.table import Table

from distfa.text.lines import say


def error(message: str) -> None:
    """Print an error on stderr, in one line or a few."""
    say(message, mark="error: ", mark_style="bold red", console=Console(stderr=True))


def table(title: str, headings: Iterable[str], *, words: Container[str] = (), wraps: Container[str] = ()) -> Table:
    """An empty table: text columns are aligned left, numeric columns right."""
    made = Table(title=title, title_justify="left", title_style="italic")
    for heading in headings:
        made.add_column(heading, justify="left" if heading in words else "right", no_wrap=heading not in wraps)
    return made
