"""Checks, before Ray starts, that this machine has what it needs: a place for its files, and loopback.

Ray's own errors speak of sockets and errno, or it waits for minutes.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from pathlib import Path

from distfa.errors import ClusterError
from distfa.text.words import human_bytes

SHARED = Path("/dev/shm")
_LONGEST_SOCKET = 107  # characters in the path of a Unix socket, on Linux
_WITHIN = "/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
_LOOPBACK, _LOOPBACK_SECONDS = "127.0.0.1", 5.0
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
            f"Ray would keep its sockets in {named}, whose name has {len(os.fsencode(place))} bytes; a socket's "
            f"path leaves room for {room}: {_WAY_OUT} with a shorter name, such as RAY_TMPDIR=/tmp"
        )
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as exc:
        raise ClusterError(
            f"Ray keeps its files in {named}, which cannot be written: {exc.strerror}; {_WAY_OUT} that is writable"
        ) from exc
    if (free := shutil.disk_usage(place).free) < _LEAST_BYTES:
        raise ClusterError(
            f"Ray keeps its files in {named}, where {human_bytes(free)} are free, but it needs "
            f"{human_bytes(_LEAST_BYTES)}: free up space, or {_WAY_OUT} on another disk"
        )
    return place


def require_loopback() -> None:
    """Make sure that processes of this machine reach each other at 127.0.0.1, where Ray and the layers listen.

    Raises:
        ClusterError: They do not; Ray would wait for itself for minutes.
    """
    try:
        with socket.create_server((_LOOPBACK, 0)) as server:
            socket.create_connection(server.getsockname(), timeout=_LOOPBACK_SECONDS).close()
    except OSError as exc:
        raise ClusterError(
            f"processes of this machine cannot reach each other at {_LOOPBACK} ({exc.strerror or exc}), where Ray "
            f"and the layers listen; bring it up with 'ip link set lo up' and 'ip address add {_LOOPBACK}/8 dev "
            "lo' (as root), or train in one process: --engine serial"
        ) from exc


def store_directory(place: Path) -> str | None:
    """Where to put Ray's object store; None for Ray's choice: shared memory, or its directory if that is small.

    Ray fails on a system without any shared memory.
    """
    return None if SHARED.is_dir() else str(place)
