"""auto: the codec that brings a signal over a link soonest, at a bounded error, from what both really cost here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from distfa.codecs import LOSSLESS, resolve, timing
from distfa.codecs.timing import Timing

AUTO = "auto"
"""In a spec: chosen when the run starts."""

CANDIDATES = (LOSSLESS, "packed", "packed+zstd", "bf16", "int8", "int8+zstd", "uint8", "uint8+zstd")
"""None may be further off than int8: half of 1/127 of the row's largest magnitude."""

_WORTH = 0.9  # of the time of the best lossless one: what a loss must bring
_REPEATS = 7


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen, and why.

    Attributes:
        name: The codec.
        seconds: Per message, by codec: writing, carrying, reading.
    """

    name: str
    seconds: dict[str, float]


def timings(rows: int, columns: int, dtype: torch.dtype, *, zeros: float) -> dict[str, Timing]:
    """What every candidate costs on this processor, for a message of this shape.

    Args:
        rows: Of a message.
        columns: As ``rows``.
        dtype: Of signals.
        zeros: Share of the numbers that are zero.
    """
    return {
        name: timing.measure(resolve(name, dtype), rows, columns, zeros, dtype=dtype, repeats=_REPEATS)
        for name in CANDIDATES
    }


def choose(measured: Mapping[str, Timing], seconds_per_byte: float, lossless: Callable[[str], bool]) -> Choice:
    """The codec that takes least time; one that loses nothing, unless another saves a tenth of its time.

    Args:
        measured: By codec, of the slowest processor.
        seconds_per_byte: Of the slowest link.
        lossless: Whether a codec loses nothing.
    """
    seconds = {
        name: one.encode_seconds + one.decode_seconds + one.payload_bytes * seconds_per_byte
        for name, one in measured.items()
    }
    best, exact_best = min(seconds, key=seconds.__getitem__), min(filter(lossless, seconds), key=seconds.__getitem__)
    return Choice(name=best if seconds[best] < _WORTH * seconds[exact_best] else exact_best, seconds=seconds)
