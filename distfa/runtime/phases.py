"""What a start waits for, as it happens: a separate logger, which prints nothing unless somebody listens."""

from __future__ import annotations

import logging

LOG = logging.getLogger("distfa.phases")
LOG.propagate = False
LOG.addHandler(logging.NullHandler())


def begins(what: str) -> None:
    """Say that a part of the start begins; the one before it has ended."""
    LOG.info(what)
