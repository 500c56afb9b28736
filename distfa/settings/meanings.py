"""The meanings of the fields of a dataclass, read from Attributes in its docstring."""

from __future__ import annotations

import inspect
import re


def meanings(part: type) -> dict[str, str]:
    """The meaning of every field that the docstrings of a dataclass and of its bases explain, on one line each."""
    found: dict[str, str] = {}
    for each in reversed(part.__mro__):
        attributes = inspect.cleandoc(each.__doc__ or "").partition("Attributes:\n")[2].partition("\n\n")[0]
        for name, text in re.findall(r"^    (\w+): (.*?)(?=^    \w+: |\Z)", attributes, flags=re.M | re.S):
            found[name] = " ".join(text.replace("None:", "null:").split())
    return found
