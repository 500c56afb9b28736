"""The phases of a start, as they happen: a separate logger, which prints nothing unless somebody listens."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any

LOG = logging.getLogger("distfa.phases")
LOG.propagate = False
LOG.addHandler(logging.NullHandler())
_TELL_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Up:
    """How far a part of the start is.

    Attributes:
        done: Workers that are done with it.
        of: Workers in all.
        seconds: How long it has taken.
        limit_seconds: How long it may take.
    """

    done: int
    of: int
    seconds: float
    limit_seconds: float

    def __str__(self) -> str:
        most = max(0.0, self.limit_seconds - self.seconds)
        left = f"about {self.seconds / self.done * (self.of - self.done):.0f} s left, " if self.done else ""
        return f"{self.done} of {self.of} are up after {self.seconds:.0f} s, {left}at most {most:.0f}"


def say_phase(what: str) -> None:
    """Say that a part of the start begins; the one before it has ended."""
    LOG.info(what)


def say_progress(done: int, of: int, seconds: float, limit_seconds: float) -> None:
    """Say how many workers are done with the part that began last."""
    up = Up(done=done, of=of, seconds=seconds, limit_seconds=limit_seconds)
    LOG.info("%s", up, extra={"up": up})


def wait_for(answers: Collection[Future[Any]], limit_seconds: float) -> set[Future[Any]]:
    """Wait for the answers of workers, and say how many are there; returns those that are late."""
    began, late = time.monotonic(), set(answers)
    while late and (seconds := time.monotonic() - began) < limit_seconds:
        _, late = wait(late, timeout=min(_TELL_SECONDS, limit_seconds - seconds))
        say_progress(len(answers) - len(late), len(answers), time.monotonic() - began, limit_seconds)
    return {answer for answer in late if not answer.done()}
