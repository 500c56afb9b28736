"""The secret key of a run: from it come the noise and the choice of samples, and with it both could be undone.

It is in a file of its own, never in the run directory. Each layer gets a subkey, from which neither the key nor another
layer's subkey can be found.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from distfa.errors import SpecError
from distfa.files import disk_errors

KEYS = "~/.distfa/keys"
"""Where keys are that nobody gave a place."""

_BYTES = 32
_SAMPLING, _CHECK, _RECORD = "sampling", "check", "record"
_PERSON = b"distfa private"


@dataclass(frozen=True)
class RunKey:
    """The key of one run; its ``repr`` has no secret."""

    secret: bytes = field(repr=False)

    @staticmethod
    def new() -> RunKey:
        """A key from the operating system's generator."""
        return RunKey(os.urandom(_BYTES))

    @staticmethod
    def of_seed(seed: int) -> RunKey:
        """A key that everyone can make who knows the seed, for tests and studies."""
        return RunKey(hashlib.blake2b(str(seed).encode(), digest_size=_BYTES, person=_PERSON).digest())

    @staticmethod
    def read(path: Path) -> RunKey:
        """The key in a file.

        Raises:
            SpecError: It cannot be read, others may read it, or it holds no key.
        """
        with disk_errors("read the key", path, SpecError, "a private run resumes only with its key (privacy.key)"):
            mode, secret = stat.S_IMODE(path.stat().st_mode), path.read_bytes()
        if mode & 0o077:
            raise SpecError(
                f"the key {path} can be read by others (mode {mode:o}), who could undo the noise; if nobody has, make "
                f"it yours alone (chmod 600 {path}), otherwise start a new run"
            )
        if len(secret) != _BYTES:
            raise SpecError(f"{path} has {len(secret)} bytes, but a key has {_BYTES}; set privacy.key to the run's key")
        return RunKey(secret)

    def write(self, path: Path) -> None:
        """Keep it in a new file that only its owner can read.

        Raises:
            SpecError: There is a file, or it cannot be written.
        """
        if path.exists():
            raise SpecError(
                f"privacy.key is {path}, which exists; a key is for one run only, since the same noise on other data "
                "can be subtracted: name a file that does not exist, or leave privacy.key out"
            )
        with disk_errors("write the key", path, SpecError, "set privacy.key to another file"):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(self.secret)
                file.flush()
                os.fsync(file.fileno())

    def of_layer(self, layer: int) -> bytes:
        """The subkey of a layer's noise."""
        return self._derive(f"layer {layer}")

    def of_sampling(self) -> bytes:
        """The subkey of the choice of samples."""
        return self._derive(_SAMPLING)

    @property
    def check(self) -> str:
        """By which the key is recognised; tells nothing about it."""
        return self._derive(_CHECK)[:8].hex()

    def seal(self, text: str) -> str:
        """A digest of ``text`` that nobody can compute, or compare with guesses, without the key."""
        return hashlib.blake2b(text.encode(), key=self._derive(_RECORD), digest_size=16).hexdigest()

    def _derive(self, purpose: str) -> bytes:
        return hashlib.blake2b(purpose.encode(), key=self.secret, digest_size=_BYTES, person=_PERSON).digest()
