"""Figures and names in words. Every size that distfa shows, anywhere, is in the units of ``human_bytes``."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable

KB, MB = 1e3, 1e6
"""Bytes in the columns of a table that has one unit: kB and MB, as in ``human_bytes``."""

NOT_FINITE = "not finite"
"""NaN or an infinity, in words."""

_UNITS = ("B", "kB", "MB", "GB")


def human_bytes(count: float) -> str:
    """1536 as ``1.5 kB``: 1000 bytes, as in a link's rate. Only settings named ``_mib`` and ``_gib`` count by 1024."""
    unit = 0
    while unit < len(_UNITS) - 1 and abs(round(count, 0 if unit == 0 else 1)) >= 1000:
        count, unit = count / 1000, unit + 1
    return f"{count:,.{min(unit, 1)}f} {_UNITS[unit]}"


def cell(value: object) -> str:
    """A figure as text for a person."""
    if value is None:
        return "-"
    if isinstance(value, float):
        if not math.isfinite(value):
            return NOT_FINITE
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def figure(value: float, form: str) -> str:
    """A figure in a format; one that is NaN or infinite in words."""
    return format(value, form) if math.isfinite(value) else NOT_FINITE


def pluralize(count: int, one: str, many: str = "") -> str:
    """1 and ``layer`` as ``1 layer``, 2 as ``2 layers``."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def find_nearest(value: object, names: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The name that was most likely meant, whatever its capitals, and whether it is written with ``-`` or ``_``."""
    plain = {_plain(name): name for name in reversed(list(names))}
    found = difflib.get_close_matches(_plain(value), plain, n=1, cutoff=cutoff)
    return plain[found[0]] if found else None


def hint(value: object, names: Iterable[str]) -> str:
    """The end of a message about a value that is not one of ``names``; empty if none of them is near."""
    near = find_nearest(value, names)
    return f"; did you mean {near!r}?" if near else ""


def not_among(value: object, names: Collection[str]) -> str:
    """The message for a value that is not one of ``names``, without the value, with the nearest one."""
    return f"is not one of {', '.join(names)}{hint(value, names)}"


def _plain(name: object) -> str:
    return str(name).strip().lower().replace("-", "_")
