"""Figures in words. Every size that distfa shows, in tables, messages and pages, is in the units of ``human_bytes``."""

from __future__ import annotations

KB, MB = 1e3, 1e6
"""Bytes in the columns of a table that has one unit: kB and MB, as in ``human_bytes``."""

_UNITS = ("B", "kB", "MB", "GB")


def human_bytes(count: float) -> str:
    """1536 as ``1.5 kB``: 1000 bytes, as in a link's rate. Only settings named ``_mib`` and ``_gib`` count by 1024."""
    unit = 0
    while unit < len(_UNITS) - 1 and abs(round(count, 0 if unit == 0 else 1)) >= 1000:
        count, unit = count / 1000, unit + 1
    return f"{count:,.{min(unit, 1)}f} {_UNITS[unit]}"


def counted(count: int, one: str, many: str = "") -> str:
    """1 and ``layer`` as ``1 layer``, 2 as ``2 layers``."""
    return f"{count} {one if count == 1 else many or one + 's'}"
