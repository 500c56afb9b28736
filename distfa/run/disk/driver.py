"""Who drives a run: a process with a lock on one of its files. The system frees the lock when that process ends."""

from __future__ import annotations

import fcntl
import os
import platform
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any


def driver() -> dict[str, Any]:
    """This process, as it is named in run.json."""
    return {"pid": os.getpid(), "node": platform.node()}


def lock(path: Path) -> IO[bytes] | None:
    """The lock on a file, for the process that drives the run; None while another process has it.

    Processes that are forked from this one do not keep it.
    """
    file = path.open("r+b")
    held = weakref.ref(file)
    os.register_at_fork(after_in_child=lambda: _close(held()))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError:
        return file  # a file system without locks
    return file


def is_driven(path: Path, about: Mapping[str, Any]) -> bool:
    """Whether a process drives the run whose lock is on this file.

    If the file system has no locks: on this machine the process is looked for; on another machine it counts as alive.

    Args:
        path: The file.
        about: Who drove it last, as ``driver`` gives it.
    """
    try:
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError:
        return about.get("node") != platform.node() or _lives(about.get("pid"))
    return False


def has_ended(about: Mapping[str, Any]) -> bool:
    """Whether the process that ``driver`` named was on this machine and is gone."""
    return about.get("node") == platform.node() and not _lives(about.get("pid"))


def _close(file: IO[bytes] | None) -> None:
    if file is not None:
        file.close()


def _lives(pid: int | None) -> bool:
    try:
        os.kill(pid or 0, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return bool(pid)
