"""The token that Ray's processes on several machines share: in a file for its owner only, and never printed."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

from distfa.errors import UsageError

PLACE = Path("~/.ray/auth_token")
_OWNER_ONLY = stat.S_IRUSR | stat.S_IWUSR


def require_token(say: Callable[[str], None]) -> Path:
    """Make the file if there is none, and close it to others if it is open; returns where it is.

    Args:
        say: Called with what was done, in words, without the token.

    Raises:
        UsageError: It cannot be written.
    """
    path = PLACE.expanduser()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _OWNER_ONLY)
        except FileExistsError:
            if stat.S_IMODE(path.stat().st_mode) & ~_OWNER_ONLY:
                path.chmod(_OWNER_ONLY)
                say(f"{path} could be read by others; now only its owner can read it")
            return path
        with os.fdopen(descriptor, "w") as file:
            os.fchmod(descriptor, _OWNER_ONLY)  # whatever the process's mask
            file.write(secrets.token_hex(32))
    except OSError as exc:
        raise UsageError(f"cannot store Ray's token in {path}: {exc.strerror}; make that file writable") from exc
    say(f"a new token for Ray is in {path}, which only its owner can read")
    return path
