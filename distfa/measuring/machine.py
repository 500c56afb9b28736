"""The machine on which a figure was measured, how busy it was, and what the processes of a distfa run use of it."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from distfa.errors import BenchError
from distfa.run.disk.host import processor
from distfa.version import __version__

_BARE_SECONDS = 120.0
_BARE = "import torch, ray, distfa.runtime.ray.actors, psutil; print(psutil.Process().memory_info().rss)"
_STATES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
_LAYER = "ray::WorkerHost"  # the title that Ray gives to the process of a layer actor


def cores() -> int:
    """The number of cores of this machine, as the system counts them."""
    return psutil.cpu_count() or 1


def describe_machine() -> dict[str, Any]:
    """The processor, the memory and the versions."""
    return {
        "processor": processor(),
        "cores": cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "distfa": __version__,
    }


@dataclass
class Load:
    """How busy the whole machine was while a ``with`` block ran, and for how long.

    Attributes:
        seconds: How long the block ran.
        cpu_seconds: Processor time of all processes on the machine, over all cores.
        busy: Share of the time of all cores, 0 to 1.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    busy: float = 0.0

    def __enter__(self) -> Load:
        self._began, self._times = time.monotonic(), psutil.cpu_times()
        return self

    def __exit__(self, *exc: object) -> None:
        self.seconds = time.monotonic() - self._began
        before, now = self._times._asdict(), psutil.cpu_times()._asdict()
        spent = {name: now[name] - before[name] for name in _STATES if name in now}  # the system may not know all
        total = sum(spent.values())
        self.cpu_seconds = total - spent["idle"] - spent.get("iowait", 0.0)
        self.busy = self.cpu_seconds / total if total else 0.0


@dataclass(frozen=True, kw_only=True)
class Usage:
    """One process at one moment.

    Attributes:
        is_layer: Whether it is the process of a layer actor.
        cpu_seconds: Processor time since it began.
        rss_bytes: Memory that it holds.
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
        except psutil.Error:  # it ended after it was listed
            continue
    return found


def cpu_between(before: Mapping[int, Usage], after: Mapping[int, Usage], *, layers_only: bool = False) -> float:
    """CPU seconds between two snapshots of the processes that are alive at the second."""
    return sum(
        usage.cpu_seconds - (before[pid].cpu_seconds if pid in before else 0.0)
        for pid, usage in after.items()
        if usage.is_layer or not layers_only
    )


def bare_layer_bytes() -> int:
    """Memory of a process that has loaded the same modules as a layer's process and does nothing."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _BARE], capture_output=True, text=True, check=True, timeout=_BARE_SECONDS
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as exc:
        raise BenchError(f"a process that only imports torch, ray and distfa failed: {exc}") from exc
    return int(done.stdout)
