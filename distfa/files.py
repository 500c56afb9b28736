"""Files that are written whole or not at all: beside their place, to the disk, then moved there."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file; another process never sees a part of it, nor does a power failure leave one.

    Args:
        path: Its place, in a folder that is there; a file that was there is replaced.
        content: Bytes, or text that goes in as UTF-8.

    Raises:
        OSError: It cannot be written; what was there stays.
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
