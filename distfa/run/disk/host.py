"""The machine and the software on which a run's figures were measured."""

from __future__ import annotations

import datetime
import functools
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from distfa.runtime.survey import surveyor
from distfa.text.redact import redact
from distfa.version import __version__


def describe_host() -> dict[str, Any]:
    """Facts about the machine and the software, for readers of the figures."""
    return {
        "distfa": __version__,
        "code": _code(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "processor": processor(),
        "cpus": os.cpu_count(),
        "cuda": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "load_average": os.getloadavg(),
        "command": command_line(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


@functools.cache
def _code() -> str:
    """The mark of distfa's code; of all runs of a process the same, which has imported it once."""
    return surveyor()()["distfa"]


def command_line() -> list[str]:
    """The command line of this process, as it was typed, without passwords."""
    name = Path(sys.argv[0]).name
    return ["distfa" if name == "__main__.py" else name, *map(redact, sys.argv[1:])]


def processor() -> str:
    """The name of the processor's model, if the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
