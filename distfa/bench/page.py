"""The file of a benchmark as one HTML page: notes, table, figures, settings and machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distfa.bench.figures import outcome_figures
from distfa.bench.outcome import Outcome
from distfa.errors import BenchError
from distfa.pages.page import Box, Facts, Page, Table


def write_bench_report(path: Path, out: Path | None = None, *, shared: bool = False) -> Path:
    """Write the page; it needs no network.

    Args:
        path: A file that ``distfa bench`` wrote.
        out: The page; ``path`` with the ending .html if not given.
        shared: As for ``Page.write``.

    Returns:
        Where the page is.

    Raises:
        BenchError: The file cannot be read, or is not a benchmark's.
        RunDirError: The page cannot be written.
    """
    outcome = Outcome.load(path)
    out = path.with_suffix(".html") if out is None else out
    try:
        page = bench_page(outcome, path)
    except (KeyError, TypeError, AttributeError) as exc:
        raise BenchError(f"{path} is not a result of this version of distfa bench {outcome.name}: {exc!r}") from exc
    page.write(out, shared=shared)
    return out


def bench_page(outcome: Outcome, path: Path) -> Page:
    """The page."""
    machine = outcome.machine
    return Page(
        title=f"distfa bench {outcome.name}",
        subtitle=f"{machine.get('processor', 'unknown processor')}, {machine.get('cores', '?')} cores · {path}",
        parts=[
            *([Box("Notes", "\n".join(outcome.notes))] if outcome.notes else []),
            *outcome_figures(outcome),
            Table(columns=outcome.shown, rows=outcome.rows),
            Facts([_words(outcome.settings), _words(machine)]),
        ],
    )


def _words(values: Mapping[str, Any]) -> dict[str, str]:
    """A mapping as texts for a person; nested values stay JSON."""
    return {
        key.replace("_", " "): value if isinstance(value, str) else json.dumps(value)
        for key, value in values.items()
        if value is not None
    }
