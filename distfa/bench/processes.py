"""What the processes of a distfa run use: this one, Ray's own, and one per layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import psutil

_LAYER = "ray::LayerActor"  # what Ray makes the title of a layer actor's process


@dataclass(frozen=True, kw_only=True)
class Usage:
    """One process at one moment.

    Attributes:
        is_layer: Whether it is a layer actor's.
        cpu_seconds: Since it began.
        rss_bytes: Memory it holds.
    """

    is_layer: bool
    cpu_seconds: float
    rss_bytes: int


def snapshot() -> dict[int, Usage]:
    """This process and all below it, by process id."""
    me = psutil.Process()
    found = {}
    for process in (me, *me.children(recursive=True)):
        try:
            with process.oneshot():
                times = process.cpu_times()
                found[process.pid] = Usage(
                    is_layer=" ".join(process.cmdline()).startswith(_LAYER),
                    cpu_seconds=times.user + times.system,
                    rss_bytes=process.memory_info().rss,
                )
        except psutil.Error:  # it ended between the list and the look
            continue
    return found


def cpu_between(before: Mapping[int, Usage], after: Mapping[int, Usage], *, layers_only: bool = False) -> float:
    """CPU seconds spent between two snapshots by processes alive at the second."""
    return sum(
        usage.cpu_seconds - (before[pid].cpu_seconds if pid in before else 0.0)
        for pid, usage in after.items()
        if usage.is_layer or not layers_only
    )
