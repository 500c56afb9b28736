"""What a start waits for, told as it goes: a logger of its own, which says nothing unless somebody listens."""

from __future__ import annotations

import logging

LOG = logging.getLogger("distfa.phases")
LOG.propagate = False
LOG.addHandler(logging.NullHandler())


def begins(what: str) -> None:
    """A part of the start begins; the one before has ended."""
    LOG.info(what)
