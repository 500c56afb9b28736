"""``distfa bench checkpoints``: what a step costs with and without checkpoints."""

from __future__ import annotations

from distfa.bench.in_turn import measure_in_turn
from distfa.bench.options import CheckpointsOptions
from distfa.bench.outcome import Outcome
from distfa.bench.pace import Say

_KEEP_ALL = 10**6


def measure(options: CheckpointsOptions, say: Say) -> Outcome:
    """Train without and with checkpoints, all of which are kept; it raises what ``measure_in_turn`` does."""
    kept = {"every": options.every, "seconds": 0, "keep": _KEEP_ALL}
    settings = {"none": {"checkpoint": kept | {"every": 0}}, f"every {options.every} steps": {"checkpoint": kept}}
    return measure_in_turn("checkpoints", options, {}, settings, say)
