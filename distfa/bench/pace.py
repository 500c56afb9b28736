"""Says how far a benchmark is, and about how long it will still take."""

from __future__ import annotations

import time
from collections.abc import Callable

Say = Callable[[str], None]


def paced(say: Say, total: int, *, ahead: bool = False) -> Say:
    """Add to each line which part of how many it is, and the time left, estimated from the parts so far.

    Args:
        say: Prints a line.
        total: How many lines there will be, one for each part.
        ahead: Whether a line comes before its part instead of after it.
    """
    began, told = time.monotonic(), 0

    def tell(line: str) -> None:
        nonlocal told
        told += 1
        done = told - ahead
        spent = time.monotonic() - began
        left = f", about {duration(spent / done * (total - done))} left" if 0 < done < total else ""
        say(f"{line} ({told} of {total}{left})")

    return tell


def duration(seconds: float) -> str:
    """A rough duration: ``40 s``, ``3 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
