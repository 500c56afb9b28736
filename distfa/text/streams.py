"""Output that may be lost: a closed stream, a broken pipe or a full disk does not end a run."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class UnbrokenStream:
    """A stream whose writing raises no error; in all else it is the stream that it stands for.

    Args:
        stream: stdout or stderr; None, as Python has it where a process began with that stream closed, for nowhere.

    Attributes:
        lost: The first error of writing; None while nothing has been lost.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream or open(os.devnull, "w")  # noqa: SIM115 (it lives as long as this does)
        self.lost: Exception | None = None

    def write(self, text: str) -> int:
        """Write the text, or lose it; letters that the stream cannot write are written as escapes."""
        try:
            self._stream.write(text)
        except UnicodeEncodeError as exc:
            self._stream.write(text.encode(exc.encoding, "backslashreplace").decode(exc.encoding))
        except (OSError, ValueError) as exc:  # ValueError: the stream is closed
            self.lost = self.lost or exc
        return len(text)

    def flush(self) -> None:
        """Flush it, or lose what was not written yet."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as exc:
            self.lost = self.lost or exc

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        try:
            return self._stream.isatty()
        except ValueError:
            return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def forget(self) -> None:
        """Let what could not be written go, so that Python does not try again as it exits."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if self.lost is not None:
                number = self.fileno()
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)
                self.flush()


@contextlib.contextmanager
def ignore_write_errors() -> Iterator[UnbrokenStream]:
    """While it is open, nothing that is printed raises an error; yields stdout.

    Descriptors 0 to 2 are opened where the process began without them, so that no other file gets their numbers.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
    before = sys.stdout, sys.stderr
    out, err = UnbrokenStream(sys.stdout), UnbrokenStream(sys.stderr)
    sys.stdout, sys.stderr = out, err
    try:
        yield out
    finally:
        for stream in (out, err):
            stream.flush()
            stream.forget()
        sys.stdout, sys.stderr = before
