"""The file of a benchmark as one HTML page: notes, table, figures, settings and machine."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distfa.bench.figures import figures
from distfa.bench.outcome import Outcome, cell
from distfa.errors import BenchError
from distfa.report.page import box, definitions, document, section, write_page


def write_bench_report(path: Path, out: Path | None = None, *, shared: bool = False) -> Path:
    """Write the page; it needs no network.

    Args:
        path: A file that ``distfa bench`` wrote.
        out: The page; ``path`` with the ending .html if not given.
        shared: As for ``write_page``.

    Returns:
        Where the page is.

    Raises:
        BenchError: The file cannot be read, or is not a benchmark's.
        RunDirError: The page cannot be written.
    """
    outcome = Outcome.load(path)
    out = path.with_suffix(".html") if out is None else out
    try:
        text = render(outcome, path)
    except (KeyError, TypeError, AttributeError) as exc:
        raise BenchError(f"{path} is not a result of this version of distfa bench {outcome.name}: {exc!r}") from exc
    write_page(out, text, shared=shared)
    return out


def render(outcome: Outcome, path: Path) -> str:
    """The page."""
    drawn = figures(outcome)
    machine = outcome.machine
    return document(
        f"distfa bench {outcome.name}",
        f"{machine.get('processor', 'unknown processor')}, {machine.get('cores', '?')} cores · {path}",
        [
            *([box("To be read with it", "\n".join(outcome.notes))] if outcome.notes else []),
            *map(section, drawn),
            f'<section class="table">{_table(outcome)}</section>',
            f'<section class="facts">{definitions(_words(outcome.settings))}{definitions(_words(machine))}</section>',
        ],
        drawn,
    )


def _table(outcome: Outcome) -> str:
    heads = "".join(f"<th{_side(outcome, key)}>{html.escape(head)}</th>" for key, head in outcome.shown.items())
    rows = [
        "".join(f"<td{_side(outcome, key)}>{html.escape(cell(row.get(key)))}</td>" for key in outcome.shown)
        for row in outcome.rows
    ]
    return f"<table><tr>{heads}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _side(outcome: Outcome, key: str) -> str:
    """Words are aligned left, figures right."""
    return ' class="text"' if any(isinstance(row.get(key), str) for row in outcome.rows) else ""


def _words(values: Mapping[str, Any]) -> dict[str, str]:
    """A mapping as texts for a person; nested values stay JSON."""
    return {
        key.replace("_", " "): value if isinstance(value, str) else json.dumps(value)
        for key, value in values.items()
        if value is not None
    }
