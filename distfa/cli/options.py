"""Options that several commands share, and how their values are parsed."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distfa.errors import UsageError
from distfa.text.words import not_among

if TYPE_CHECKING:
    from distfa.settings import RunSpec

Data = Annotated[str, typer.Option(help="As for 'distfa train'.")]
DataDir = Annotated[str | None, typer.Option(help="As for 'distfa train'.")]
Model = Annotated[str, typer.Option(help="As for 'distfa train'.")]
Hidden = Annotated[str, typer.Option(metavar="N,N,...", help="Widths of the hidden layers.")]
Optimizer = Annotated[str, typer.Option(help="sgd, adam or adamw.")]
LearningRate = Annotated[float, typer.Option(help="Learning rate.")]
Seeds = Annotated[
    int, typer.Option(min=1, help="Runs per row; the table shows means, and the standard deviation of the accuracy.")
]


def outcome_file(**how: Any) -> Any:
    """``typer.Option`` for the file of a command's outcome, which must be writable before the work begins."""
    return typer.Option(callback=_writable_file, **how)


def outcome_folder(*names: str, **how: Any) -> Any:
    """The same for a folder of several files."""
    return typer.Option(*names, callback=_writable_folder, **how)


def _writable_file(context: typer.Context, param: typer.CallbackParam, value: Path | None) -> Path | None:
    return _writable(context, param, value)


def _writable_folder(context: typer.Context, param: typer.CallbackParam, value: Path | None) -> Path | None:
    return _writable(context, param, value, folder=True)


def _writable(
    context: typer.Context, param: typer.CallbackParam, value: Path | None, *, folder: bool = False
) -> Path | None:
    from distfa.files import require_writable

    if value is not None and not context.resilient_parsing:
        require_writable(value, param.opts[-1], folder=folder)
    return value


Out = Annotated[Path, outcome_file(help="File for the figures.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the text of the file on stdout instead of a table.")]
JsonObject = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
RunDir = Annotated[Path, typer.Argument(help="Run directory, as 'distfa train' prints it.")]


def panel(name: str) -> Callable[..., Any]:
    """``typer.Option`` for options under a separate heading."""
    return partial(typer.Option, rich_help_panel=name)


def words(text: str) -> tuple[str, ...]:
    """Split ``bp,fa`` into its parts."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def among(option: str, text: str, names: Collection[str]) -> tuple[str, ...]:
    """Split ``sync,async`` into its parts, each of which must be one of ``names``.

    Raises:
        UsageError: A part is not (the message names the nearest), or there are none.
    """
    parts = words(text)
    for part in parts:
        if part not in names:
            raise UsageError(f"{option}: {part!r} {not_among(part, names)}")
    if not parts:
        raise UsageError(f"{option} is {text!r}; it takes {', '.join(names)}, with commas between")
    return parts


def numbers(option: str, text: str, count: int | None = None, *, may_be_none: bool = False) -> tuple[int, ...]:
    """Parse ``1,2,4`` as numbers.

    Raises:
        UsageError: A part is not a whole number above 0, or the number of parts is not ``count``, or there are none.
    """
    parts = words(text)
    right_count = len(parts) == count if count else parts or may_be_none
    if not right_count or not all(part.isdecimal() and int(part) > 0 for part in parts):
        wanted = f"{count} whole numbers above 0" if count else "whole numbers above 0"
        raise UsageError(f"{option} is {text!r}; it takes {wanted}, with commas between")
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
        raise UsageError(f"{option} is {text!r}; it takes numbers above 0, with commas between")
    return found


def codec_pairs(text: str) -> list[tuple[str, str]]:
    """``int8,int8/bf16`` as (activations, errors)."""
    return [(up, down or up) for up, _, down in (pair.partition("/") for pair in words(text))]


def bench_spec(hidden: str, flags: dict[str, Any]) -> RunSpec:
    """The spec of a benchmark's task, from the widths as text and the settings that differ from the defaults."""
    from distfa import settings as specs

    return specs.load_spec(None, [specs.parse_change(f"model.hidden=[{hidden}]"), *flags.items()])
