"""A run spec from YAML, from changes on the command line, or from both."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import ValidationError

from distfa.errors import SpecError
from distfa.settings.explaining import explain
from distfa.settings.schema import RunSpec, as_named, both_ways


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


def amend(spec: RunSpec, changes: Mapping[str, Any]) -> RunSpec:
    """The spec with other values, by dotted key.

    Raises:
        SpecError: ``parse_spec`` refuses it.
    """
    return load_spec(None, [*spec.model_dump(mode="json").items(), *changes.items()])


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
        short = both_ways if key == "codec" else as_named
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


_BOOL, _NULL, _NUMBER = (f"tag:yaml.org,2002:{name}" for name in ("bool", "null", "float"))
_MERGE = "tag:yaml.org,2002:merge"
_PLAIN = (
    (_BOOL, r"true|True|TRUE|false|False|FALSE", "tTfF"),
    (_NULL, r"~|null|Null|NULL|", ("~", "n", "N", "")),
    (
        _NUMBER,
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    (_MERGE, r"<<", "<"),
)


class _Written:
    """A number that prints as it was written."""

    text: str

    def __str__(self) -> str:
        return self.text


class WrittenInt(_Written, int):
    """A whole number that prints as it was written."""

    def __new__(cls, text: str) -> Self:
        made = super().__new__(cls, text)
        made.text = text
        return made


class WrittenFloat(_Written, float):
    """A number that prints as it was written."""

    def __new__(cls, text: str) -> Self:
        made = super().__new__(cls, re.sub(r"\.(?=inf|nan)", "", text.lower()))
        made.text = text
        return made


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - yaml's own way to say it; filled below


def _number(loader: _Loader, node: yaml.ScalarNode) -> WrittenInt | WrittenFloat:
    text = str(loader.construct_scalar(node))
    return WrittenInt(text) if text.lstrip("+-").isdecimal() else WrittenFloat(text)


for _tag, _form, _first in _PLAIN:
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_form})$"), list(_first))
_Loader.add_constructor(_NUMBER, _number)


def read_yaml(text: str) -> Any:
    """Read YAML so that text stays text: what is quoted is never a number, a plain number keeps how it was written.

    A folder may be called ``007`` or ``1.10``. Where the schema wants text, it gets those letters, not 7 or 1.1; where
    it wants a number, ``3e-4`` is one (YAML 1.1 takes it for text).

    Raises:
        yaml.YAMLError: It is not valid YAML.
    """
    return yaml.load(text, _Loader)
