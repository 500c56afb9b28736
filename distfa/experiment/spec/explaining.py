"""A run spec in words: every key with its meaning, and what is wrong with one that was refused."""

from __future__ import annotations

import difflib
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from distfa.experiment.spec.schema import RunSpec


def dump(spec: RunSpec, *, explain: bool = False) -> str:
    """The resolved spec as YAML, every key with its value.

    Args:
        spec: What to write.
        explain: Whether keys are followed by their meaning.
    """
    text = yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False)
    return _explained(text) if explain else text


def explain(error: ValidationError) -> str:
    """One line on the first problem, and how many more there are."""
    problems = error.errors(include_url=False)
    first = problems[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(where, _keys(), n=1, cutoff=0.5) or difflib.get_close_matches(
            where.rpartition(".")[2], [key.rpartition(".")[2] for key in _keys()], n=1, cutoff=0.5
        )
        hint = f"; did you mean {near[0]!r}?" if near else "; 'distfa spec' lists all keys"
        text = f"unknown key {where!r} in the spec{hint}"
    else:
        message = first["msg"].removeprefix("Value error, ")
        if isinstance(first["input"], dict):  # a rule between keys, which names them itself
            text = f"{where}: {message}" if where else message
        elif message.startswith("is "):
            text = f"{where}: {first['input']!r} {message}"
        else:
            text = f"{where} is {first['input']!r}: {message[:1].lower()}{message[1:]}"
    more = len(problems) - 1
    return f"{text} (and {more} more)" if more else text


def _explained(text: str) -> str:
    """Append each key's description to its line."""
    meanings = _descriptions()
    lines: list[str] = []
    path: list[str] = []
    for line in text.splitlines():
        key = line.strip().partition(":")[0]
        depth = (len(line) - len(line.lstrip())) // 2
        path = [*path[:depth], key]
        meaning = meanings.get(".".join(path)) if not line.lstrip().startswith("-") else None
        lines.append(f"{line:<32}  # {meaning}" if meaning else line)
    return "\n".join(lines) + "\n"


def _descriptions(model: type[BaseModel] = RunSpec, prefix: str = "") -> dict[str, str]:
    """What every dotted key means: the field's description, or its part's docstring."""
    found = {}
    for name, info in model.model_fields.items():
        part = _part(info.annotation)
        meaning = info.description or (part.__doc__ if part else None)
        if meaning:
            found[f"{prefix}{name}"] = meaning.strip().rstrip(".")
        if part:
            found |= _descriptions(part, f"{prefix}{name}.")
    return found


def _keys(model: type[BaseModel] = RunSpec, prefix: str = "") -> list[str]:
    """Every dotted key of the spec."""
    keys = []
    for name, info in model.model_fields.items():
        keys.append(f"{prefix}{name}")
        if part := _part(info.annotation):
            keys.extend(_keys(part, f"{prefix}{name}."))
    return keys


def _part(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
