"""Figures in words."""

from __future__ import annotations


def human_bytes(count: float) -> str:
    """1536 as ``1.5 KiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def counted(count: int, one: str, many: str = "") -> str:
    """1 and ``layer`` as ``1 layer``, 2 as ``2 layers``."""
    return f"{count} {one if count == 1 else many or one + 's'}"
