"""How a run claims its directory: only one process can make it, or the first file in it."""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
import sys
from pathlib import Path

from distfa.core.base.model import Network
from distfa.errors import RunDirError
from distfa.files import disk_errors
from distfa.text.words import human_bytes

_MARGIN_BYTES = 2**20  # bytes for the small files


def claim(path: Path, first: str) -> tuple[Path, bool]:
    """Claim a directory that does not exist or is empty.

    Args:
        path: The directory.
        first: The name of the file that is made in it.

    Returns:
        The path, and whether the directory was made.

    Raises:
        RunDirError: It is not empty, another run was first, or it cannot be written.
    """
    made = _try_to_claim(path, first)
    if made is None:
        raise RunDirError(
            f"the run directory {path} exists and is not empty, or another run has just claimed it; name another, "
            "or remove it"
        )
    return path, made


def claim_new(name: str, first: str) -> tuple[Path, bool]:
    """Claim runs/<time>-<name>, with a number at the end if another run has that name.

    Raises:
        RunDirError: It cannot be written.
    """
    stem = Path("runs") / f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{name}"
    number, path = 1, stem
    while _try_to_claim(path, first, fresh=True) is None:
        number += 1
        path = stem.with_name(f"{stem.name}-{number}")
    return path, True


def _try_to_claim(path: Path, first: str, *, fresh: bool = False) -> bool | None:
    """Whether the directory was made; None if it is not empty or another run was first.

    Args:
        path: The directory.
        first: The name of the file that is made in it.
        fresh: Whether it must not exist yet, not even as an empty one.

    Raises:
        RunDirError: It cannot be written.
    """
    made = False
    with disk_errors("write", path):
        try:
            # both the system's encoding and TensorBoard's, which is UTF-8, must be able to write the name
            os.fsencode(str(path).encode().decode())
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                made = True
            if not made and (fresh or not path.is_dir() or any(path.iterdir())):
                return None
            try:
                (path / first).open("xb").close()
            except FileExistsError:
                return None
        except OSError:
            if made:
                with contextlib.suppress(OSError):
                    path.rmdir()
            raise
        except UnicodeError as exc:
            raise RunDirError(
                f"the run directory {str(path)!a} has characters that this process cannot write, since its encoding "
                f"for file names is {sys.getfilesystemencoding()}; set PYTHONUTF8=1, or choose another directory"
            ) from exc
    return made


def require_room(path: Path, network: Network) -> None:
    """Refuse at the start a disk that would be full at the end.

    Raises:
        RunDirError: There is no room for the weights.
    """
    weights = sum(8 * layer.parameters for layer in network.layers)
    free, needed = shutil.disk_usage(path).free, weights + _MARGIN_BYTES
    if free < needed:
        raise RunDirError(
            f"the disk of the run directory {path} has {human_bytes(free)} free, but the run may need "
            f"{human_bytes(needed)}; free up space, or set run_dir to another disk"
        )
