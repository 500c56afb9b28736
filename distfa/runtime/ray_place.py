"""Where Ray keeps its files on this machine, checked before it starts: Ray's own errors speak of sockets and errno."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from distfa.errors import ClusterError
from distfa.words import human_bytes

SHARED = Path("/dev/shm")
_LONGEST_SOCKET = 107  # characters in the path of a Unix socket, on Linux
_WITHIN = "/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
_LEAST_BYTES = 64 * 2**20
_WAY_OUT = "set RAY_TMPDIR to a directory"


def directory() -> tuple[Path, str | None]:
    """The directory that Ray takes, and the variable that names it: as Ray's own function, which is private."""
    source = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), None)
    return Path(os.environ[source] if source else "/tmp", "ray"), source


def require_place() -> Path:
    """Ray's directory for its sockets, logs and spilled data.

    Raises:
        ClusterError: Its name is too long, it cannot be written, or its disk is full; says which, and what to do.
    """
    place, source = directory()
    named = f"{place} (by {source})" if source else str(place)
    room = _LONGEST_SOCKET - len(_WITHIN)
    if len(os.fsencode(place)) > room:
        raise ClusterError(
            f"Ray would keep its sockets in {named}, whose name has {len(os.fsencode(place))} bytes; a socket's path "
            f"leaves room for {room}: {_WAY_OUT} with a shorter name, as RAY_TMPDIR=/tmp"
        )
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as exc:
        raise ClusterError(
            f"Ray keeps its files in {named}, which cannot be written: {exc.strerror}; {_WAY_OUT} that can be"
        ) from exc
    if (free := shutil.disk_usage(place).free) < _LEAST_BYTES:
        raise ClusterError(
            f"Ray keeps its files in {named}, where {human_bytes(free)} are free; it needs "
            f"{human_bytes(_LEAST_BYTES)}: free some, or {_WAY_OUT} on another disk"
        )
    return place


def store_directory(place: Path) -> str | None:
    """Where to put Ray's object store; None for Ray's choice: shared memory, or its directory if that is small.

    Ray fails on a system without any shared memory.
    """
    return None if SHARED.is_dir() else str(place)
