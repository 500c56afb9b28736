"""A run spec from YAML, from changes on the command line, or from both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from distfa.errors import SpecError
from distfa.settings.explaining import explain
from distfa.settings.scalars import read_yaml
from distfa.settings.schema import RunSpec, both_ways, named


def parse_spec(raw: Mapping[str, Any]) -> RunSpec:
    """Validate a spec.

    Raises:
        SpecError: A key is unknown (the nearest is named), or a value breaks a rule.
    """
    try:
        return RunSpec.model_validate(raw)
    except ValidationError as exc:
        raise SpecError(explain(exc)) from exc


def load_spec(path: Path | None, changes: Sequence[tuple[str, Any]] = ()) -> RunSpec:
    """A spec from a YAML file, with changes.

    Args:
        path: The file; None for all defaults.
        changes: (dotted key, value), applied in order.

    Raises:
        SpecError: The file cannot be read, or ``parse_spec`` refuses the spec.
    """
    raw: dict[str, Any] = {} if path is None else _read(path)
    for key, value in changes:
        _put(raw, key, value)
    return parse_spec(raw)


def parse_change(text: str) -> tuple[str, Any]:
    """``codec.activations=int8`` as (key, value); the value is YAML.

    Raises:
        SpecError: There is no ``=`` in it, or the value is not valid YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise SpecError(f"--set {text!r} is not key=value; write, for example, --set optimizer.lr=0.01")
    try:
        return key.strip(), read_yaml(value)
    except yaml.YAMLError as exc:
        raise SpecError(f"--set {text!r}: the value is not valid YAML: {_one_line(exc)}") from exc


def flat(raw: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as dotted ones."""
    found: dict[str, Any] = {}
    for key, value in raw.items():
        inner = isinstance(value, Mapping) and value
        found |= flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = read_yaml(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise SpecError(f"cannot read the spec {path}: {exc.strerror}") from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise SpecError(f"the spec {path} is not valid YAML: {_one_line(exc)}") from exc
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise SpecError(
            f"the spec {path} holds a {type(raw).__name__}; it must hold keys and values, such as 'rule: dfa'"
        )
    return dict(raw)


def _put(raw: dict[str, Any], dotted: str, value: Any) -> None:
    """Set a dotted key; a short form (``optimizer: adam``) on the way to it becomes its long form."""
    *path, last = dotted.split(".")
    place = raw
    for key in path:
        short = both_ways if key == "codec" else named
        inner = short(place.get(key)) if place.get(key) is not None else {}
        if not isinstance(inner, dict):
            raise SpecError(f"--set {dotted}: {key!r} holds {place[key]!r}, which has no parts")
        place[key] = inner = dict(inner)
        place = inner
    if isinstance(value, str) and isinstance(place.get(last), dict):
        value = {**place[last], "name": value}
    place[last] = value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
