"""The cost of a codec: its time on one thread, and the bytes it sends."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from distfa.codecs.base import Codec
from distfa.core.base.threads import use_threads

_REPEATS = 50


class Timing(NamedTuple):
    """The cost of one signal.

    Attributes:
        encode_seconds: Median time of encoding.
        decode_seconds: Median time of decoding.
        payload_bytes: Bytes that are sent.
    """

    encode_seconds: float
    decode_seconds: float
    payload_bytes: int


def time_codec(
    codec: Codec,
    rows: int,
    columns: int,
    zeros: float = 0.5,
    *,
    dtype: torch.dtype = torch.float32,
    repeats: int = _REPEATS,
) -> Timing:
    """Time a codec on one torch thread.

    Args:
        codec: The codec to time.
        rows: Rows of a signal of normally distributed numbers.
        columns: Its columns.
        zeros: Share of the numbers that are zero, as after a ReLU.
        dtype: Its dtype.
        repeats: Measurements behind each median.
    """
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(rows, columns, generator=generator)
    signal[torch.rand(rows, columns, generator=generator) < zeros] = 0
    signal = signal.to(dtype)
    payload = codec.encode(signal)
    with use_threads():
        return Timing(
            encode_seconds=_median_seconds(lambda: codec.encode(signal), repeats),
            decode_seconds=_median_seconds(lambda: codec.decode(payload, rows, columns, dtype), repeats),
            payload_bytes=payload.nbytes,
        )


def _median_seconds(call: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)
