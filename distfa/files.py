"""Files that are written whole or not at all: to a temporary file in the same folder, flushed to disk, then moved.

And where a relative path is when it is used from another folder.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from distfa.errors import RunDirError, UsageError

_TRIAL_BYTES = 2**16
_FIX = "free up disk space, or set run_dir to another location"


@contextlib.contextmanager
def disk_errors(do: str, path: Path, error: type[UsageError] = RunDirError, fix: str = _FIX) -> Iterator[None]:
    """Turn what the disk refuses within the block into one of distfa's errors: cannot ``do`` the file at ``path``."""
    try:
        yield
    except OSError as exc:
        raise error(f"cannot {do} {path}: {exc.strerror or exc}; {fix}") from exc


def save_whole(path: Path, content: bytes | str, error: type[UsageError] = RunDirError, fix: str = _FIX) -> None:
    """``write_whole`` in a folder that is made if it does not exist; raises ``error``, with the fix, if it cannot."""
    with disk_errors("write", path, error, fix):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file so that no other process sees a part of it and no power failure leaves a part of it.

    Args:
        path: Where to write, in a folder that exists; an existing file is replaced.
        content: Bytes, or text, which is written as UTF-8.

    Raises:
        OSError: The file cannot be written; an existing file stays as it was.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with draft.open("wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape"))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def require_writable(path: Path, named: str, *, folder: bool = False) -> None:
    """Make sure, before the work whose outcome it takes, that a file can be written; nothing is left behind.

    Args:
        path: The file. Folders above it that do not exist yet will be made.
        named: What gave the path, as ``--out``.
        folder: Whether it is a folder for several files.

    Raises:
        UsageError: It cannot be written; says why.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(path.stat().st_mode) and not folder:
                raise IsADirectoryError(0, "it is a folder")
        place = path.absolute() if folder else path.absolute().parent
        while not place.exists():
            place = place.parent
        with tempfile.TemporaryFile(dir=place) as trial:
            trial.write(bytes(_TRIAL_BYTES))
    except OSError as exc:
        raise UsageError(
            f"{named} is {path}, which cannot be written: {exc.strerror}; choose another location"
        ) from exc


def find_in_folder(path: str, folder: str) -> str:
    """A relative path as one within a folder, if that is there; absolute paths and URLs stay as they are."""
    relative = "://" not in path and "::" not in path and not os.path.isabs(os.path.expanduser(path))
    return os.path.join(folder, path) if relative and os.path.isdir(folder) else path
