"""Options that several commands share, and how their values are parsed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from distfa.errors import UsageError


def outcome_file(*names: str, folder: bool = False, **how: Any) -> Any:
    """``typer.Option`` for where a command's outcome goes, which must be writable before the work begins."""

    def writable(context: typer.Context, param: typer.CallbackParam, value: Path | None) -> Path | None:
        from distfa.files import require_writable

        if value is not None and not context.resilient_parsing:
            require_writable(value, param.opts[-1], folder=folder)
        return value

    return typer.Option(*names, callback=writable, **how)


JsonObject = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
RunDir = Annotated[Path, typer.Argument(help="Run directory, as 'distfa train' prints it.")]


def words(text: str) -> tuple[str, ...]:
    """Split ``bp,fa`` into its parts."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def numbers(option: str, text: str, count: int | None = None, *, may_be_none: bool = False) -> tuple[int, ...]:
    """Parse ``1,2,4`` as numbers.

    Raises:
        UsageError: A part is not a whole number above 0, or the number of parts is not ``count``, or there are none.
    """
    parts = words(text)
    right_count = len(parts) == count if count else parts or may_be_none
    if not right_count or not all(part.isdecimal() and int(part) > 0 for part in parts):
        wanted = f"{count} whole numbers above 0" if count else "whole numbers above 0"
        raise UsageError(f"{option} is {text!r}; it takes {wanted}, separated by commas")
    return tuple(map(int, parts))


def rates(option: str, text: str) -> tuple[float, ...]:
    """Parse ``3e-4,1e-3`` as numbers; empty text has none.

    Raises:
        UsageError: A part is not a number above 0.
    """
    try:
        found = tuple(float(part) for part in words(text))
    except ValueError:
        found = (0.0,)
    if not all(rate > 0 for rate in found):
        raise UsageError(f"{option} is {text!r}; it takes numbers above 0, separated by commas")
    return found
