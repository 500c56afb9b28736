"""Files that are written whole or not at all: to a temporary file in the same folder, flushed to disk, then moved."""

from __future__ import annotations

import os
from pathlib import Path


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
