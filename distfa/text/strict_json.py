"""JSON that every reader can read: NaN and infinities, which JSON does not have, are the strings ``"NaN"``,
``"Infinity"`` and ``"-Infinity"``, as in protobuf's JSON mapping. ``null`` stays what it is: no such figure.
"""

from __future__ import annotations

import json
import math
from typing import Any

_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def dumps(value: Any, *, indent: int | None = None) -> str:
    """``value`` as JSON; what JSON does not know, such as a path, becomes text."""
    return json.dumps(_named(value), allow_nan=False, default=str, indent=indent)


def restore_numbers(value: Any) -> Any:
    """What was read, with the names of NaN and infinities turned into floats again."""
    if isinstance(value, dict):
        return {key: restore_numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [restore_numbers(inner) for inner in value]
    return restore_number(value)


def restore_number(value: Any) -> Any:
    """A figure; the name of NaN or an infinity becomes that float."""
    return _NUMBERS.get(value, value) if isinstance(value, str) else value


def _named(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _named(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_named(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return next(name for name, number in _NUMBERS.items() if repr(number) == repr(float(value)))
    return value
