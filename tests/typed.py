"""The commands of ``distfa`` with their options, read from the functions that carry them out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from inspect import signature
from typing import Any

import typer

from distfa.cli import app


def commands(
    of: typer.Typer = app, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Callable[..., Any]]]:
    """(its words, its function) of every command."""
    for one in of.registered_commands:
        assert one.callback is not None
        yield (*words, one.name or one.callback.__name__), one.callback
    for group in of.registered_groups:
        assert group.typer_instance is not None
        yield from commands(group.typer_instance, (*words, str(group.name)))


def options(function: Callable[..., Any]) -> Iterator[tuple[str, Any, Any]]:
    """(name as it is typed, type, typer's description) of every option of a command; arguments are left out."""
    for name, parameter in signature(function, eval_str=True).parameters.items():
        kind, info = parameter.annotation.__origin__, parameter.annotation.__metadata__[0]
        if isinstance(info, typer.models.OptionInfo):
            given = [text for text in (info.default, *(info.param_decls or ())) if str(text).startswith("-")]
            typed = given[-1] if given else f"--{name.replace('_', '-')}"
            yield typed.split("/")[0], kind, info
