"""The machine a figure was made on, and how busy it was with other things."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from distfa.version import __version__


def cores() -> int:
    """Of this machine, as the system counts them."""
    return psutil.cpu_count() or 1


def describe() -> dict[str, Any]:
    """Processor, memory and versions."""
    return {
        "processor": _processor(),
        "cores": cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "distfa": __version__,
    }


def _processor() -> str:
    """The model's name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


@dataclass
class Load:
    """How busy the whole machine was while a ``with`` block ran, and for how long.

    Attributes:
        seconds: Of the clock.
        cpu_seconds: Of processor time, of every process on the machine, over all cores.
        busy: Share of all cores' time, 0 to 1.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    busy: float = 0.0

    def __enter__(self) -> Load:
        self._began, self._times = time.monotonic(), psutil.cpu_times()
        return self

    def __exit__(self, *exc: object) -> None:
        self.seconds = time.monotonic() - self._began
        now, idle = psutil.cpu_times(), 0.0
        total = 0.0
        for name in ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"):
            change = getattr(now, name, 0.0) - getattr(self._times, name, 0.0)
            total += change
            idle += change if name in ("idle", "iowait") else 0.0
        self.cpu_seconds = total - idle
        self.busy = self.cpu_seconds / total if total else 0.0
