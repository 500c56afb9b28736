"""Flags made from the fields of a dataclass of options, and the options from what was typed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, Signature
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from distfa.bench.options import Flag, flags
from distfa.cli.options import numbers, outcome_file, rates, words

T = TypeVar("T")

_LISTS: dict[Any, Callable[[str, Flag, str], Any]] = {  # typed as one text, separated by commas
    tuple[str, ...]: lambda typed, flag, text: words(text),
    tuple[int, ...]: lambda typed, flag, text: numbers(typed, text, may_be_none=not flag.needed),
    tuple[float, ...]: lambda typed, flag, text: rates(typed, text),
}


def parameters(options: type) -> list[Parameter]:
    """The parameters of a command, one for every flag of a dataclass of options."""
    kinds, made = get_type_hints(options), []
    for name, flag in flags(options).items():
        default, kind = getattr(options, name), kinds[name]
        metavar = flag.metavar or ("N,N,..." if kind == tuple[int, ...] else None)
        if kind in _LISTS:
            default, kind = ",".join(map(str, default)), str
        how: dict[str, Any] = {"metavar": metavar, "min": flag.min, "max": flag.max, "rich_help_panel": flag.panel}
        make = outcome_file if flag.outcome else typer.Option
        made.append(parameter(name, kind, default, make(_flag_name(name, flag), help=flag.help, **how)))
    return made


def with_parameters(function: Callable[..., None], made: Sequence[Parameter]) -> Callable[..., None]:
    """The function as a command with these parameters."""
    function.__signature__ = Signature(made)  # type: ignore[attr-defined]
    return function


def parameter(name: str, kind: Any, default: Any, info: Any) -> Parameter:
    """A parameter as typer reads it."""
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def read_options(options: type[T], values: Mapping[str, Any]) -> T:
    """The options from what was typed, by field.

    Raises:
        UsageError: A list has other parts than it takes.
    """
    kinds = get_type_hints(options)
    given = {
        name: _LISTS[kinds[name]](_flag_name(name, flag), flag, values[name]) if kinds[name] in _LISTS else values[name]
        for name, flag in flags(options).items()
    }
    return options(**given)


def _flag_name(name: str, flag: Flag) -> str:
    return flag.name or f"--{name.replace('_', '-')}"
