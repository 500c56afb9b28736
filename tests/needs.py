"""What a test needs of the machine; where that is missing it is skipped, and pytest's summary and a warning say so."""

from __future__ import annotations

import warnings

import pytest


def needs(thing: str, why_not: str | None, *, else_untested: str) -> pytest.MarkDecorator:
    """The mark that skips tests where the machine lacks a thing.

    Args:
        thing: What they need.
        why_not: Why it cannot be had here; None if it can.
        else_untested: What is not tested then.
    """
    if why_not is not None:
        warnings.warn(f"{else_untested.upper()}: NOT TESTED HERE, no {thing}: {why_not}", stacklevel=2)
    return pytest.mark.skipif(why_not is not None, reason=f"NOT TESTED, no {thing} here: {why_not}")
