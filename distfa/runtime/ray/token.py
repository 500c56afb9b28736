"""A token for the cluster that a run starts for itself: made in memory, gone with the cluster, never in a file.

Ray (2.52 and later) reads token and mode from the environment, which its processes inherit, and keeps what it read. So
the environment is set before Ray starts, and restored afterwards.
"""

from __future__ import annotations

import os
import secrets

from distfa.runtime.ray import private

_MODE, _TOKEN, _PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
_TOKEN_BYTES = 32


class PrivateToken:
    """Switches tokens on for the Ray that this process starts next; what the user has set is not changed."""

    def __init__(self) -> None:
        self._before: dict[str, str | None] | None = None
        if not private.knows_tokens() or os.environ.get(_MODE):
            return
        self._before = {name: os.environ.get(name) for name in (_MODE, _TOKEN)}
        os.environ[_MODE] = "token"
        if not (os.environ.get(_TOKEN) or os.environ.get(_PATH)):
            os.environ[_TOKEN] = secrets.token_hex(_TOKEN_BYTES)
        private.read_token_again()

    def withdraw(self) -> None:
        """Restore the environment; the token is no longer needed."""
        if self._before is None:
            return
        for name, value in self._before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        self._before = None
        private.read_token_again()
