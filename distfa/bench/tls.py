"""``distfa bench tls``: what a step costs over plain text and over mutual TLS."""

from __future__ import annotations

from distfa.bench.in_turn import measure_in_turn
from distfa.bench.options import TlsOptions
from distfa.bench.outcome import Outcome
from distfa.bench.pace import Say


def measure(options: TlsOptions, say: Say) -> Outcome:
    """Train over both, on this machine; it raises what ``measure_in_turn`` does."""
    kinds = {"plain text": "insecure", "mutual TLS": "tls"}
    settings = {name: {"wire": {"security": kind}} for name, kind in kinds.items()}
    return measure_in_turn("tls", options, {"checkpoint.every": 0}, settings, say)
