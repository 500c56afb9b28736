"""JSON that every reader can read: NaN and infinities, which JSON does not have, are the strings ``"NaN"``,
``"Infinity"`` and ``"-Infinity"``, as in protobuf's JSON mapping. ``null`` stays what it is: no such figure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def dumps(value: Any, *, indent: int | None = None) -> str:
    """``value`` as JSON; what JSON does not know, such as a path, becomes text."""
    return json.dumps(replace_each(value, _name), allow_nan=False, default=str, indent=indent)


def restore_numbers(value: Any) -> Any:
    """A value as read, with the names of NaN and infinities turned into floats again."""
    return replace_each(value, restore_number)


def restore_number(value: Any) -> Any:
    """A figure; the name of NaN or an infinity becomes that float."""
    return _NUMBERS.get(value, value) if isinstance(value, str) else value


def replace_each(value: Any, replace: Callable[[Any], Any]) -> Any:
    """``value`` with every figure, text and null in it replaced; dictionaries and lists stay what they are."""
    if isinstance(value, dict):
        return {key: replace_each(inner, replace) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [replace_each(inner, replace) for inner in value]
    return replace(value)


def is_finite(value: Any) -> bool:
    """Whether a figure is one that JSON has; so is everything that is not a float."""
    return not isinstance(value, float) or math.isfinite(value)


def _name(value: Any) -> Any:
    names = (name for name, number in _NUMBERS.items() if repr(number) == repr(float(value)))
    return value if is_finite(value) else next(names)
