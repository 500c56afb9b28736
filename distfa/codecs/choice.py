"""auto: the codec that gets a signal over a link soonest, with a bounded error, from measured costs of both."""

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

_WORTH = 0.9  # share of the best lossless codec's time that a lossy one must save
_REPEATS = 7


@dataclass(frozen=True, kw_only=True)
class CodecChoice:
    """The chosen codec, and why.

    Attributes:
        name: The codec.
        seconds: Per message, by codec: writing, carrying, reading.
    """

    name: str
    seconds: dict[str, float]


def time_candidates(rows: int, columns: int, dtype: torch.dtype, *, zeros: float) -> dict[str, Timing]:
    """The cost of every candidate on this processor, for a message of this shape.

    Args:
        rows: Rows of the message.
        columns: Columns of the message.
        dtype: The dtype of signals.
        zeros: Share of the numbers that are zero.
    """
    return {
        name: timing.time_codec(resolve(name, dtype), rows, columns, zeros, dtype=dtype, repeats=_REPEATS)
        for name in CANDIDATES
    }


def choose_codec(
    measured: Mapping[str, Timing], seconds_per_byte: float, lossless: Callable[[str], bool]
) -> CodecChoice:
    """The codec that takes least time; a lossless one, unless a lossy one saves a tenth of its time.

    Args:
        measured: By codec, on the slowest processor.
        seconds_per_byte: Of the slowest link.
        lossless: Whether a codec loses nothing.
    """
    seconds = {
        name: one.encode_seconds + one.decode_seconds + one.payload_bytes * seconds_per_byte
        for name, one in measured.items()
    }
    best, exact_best = min(seconds, key=seconds.__getitem__), min(filter(lossless, seconds), key=seconds.__getitem__)
    return CodecChoice(name=best if seconds[best] < _WORTH * seconds[exact_best] else exact_best, seconds=seconds)
