"""Reads YAML so that text stays text: what is quoted is never a number, and a plain number keeps how it was written.

A folder may be called ``007`` or ``1.10``. Where the schema wants text, it gets those letters, not 7 or 1.1; where it
wants a number, ``3e-4`` is one (YAML 1.1 takes it for text).
"""

from __future__ import annotations

import re
from typing import Any, Self

import yaml

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


class WrittenInt(int):
    """A whole number that prints as it was written."""

    text: str

    def __new__(cls, text: str) -> Self:
        made = super().__new__(cls, text)
        made.text = text
        return made

    def __str__(self) -> str:
        return self.text


class WrittenFloat(float):
    """A number that prints as it was written."""

    text: str

    def __new__(cls, text: str) -> Self:
        made = super().__new__(cls, re.sub(r"\.(?=inf|nan)", "", text.lower()))
        made.text = text
        return made

    def __str__(self) -> str:
        return self.text


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - yaml's own way to say it; filled below


def _number(loader: _Loader, node: yaml.ScalarNode) -> WrittenInt | WrittenFloat:
    text = str(loader.construct_scalar(node))
    return WrittenInt(text) if text.lstrip("+-").isdecimal() else WrittenFloat(text)


for _tag, _form, _first in _PLAIN:
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_form})$"), list(_first))
_Loader.add_constructor(_NUMBER, _number)


def read_yaml(text: str) -> Any:
    """What a YAML text says.

    Raises:
        yaml.YAMLError: It is not valid YAML.
    """
    return yaml.load(text, _Loader)
