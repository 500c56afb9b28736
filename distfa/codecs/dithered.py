"""int4sr: int4 that rounds up or down by chance, so that the mean of what is decoded is what was encoded."""

from __future__ import annotations

import google_crc32c
import numpy as np
import torch
from torch import Tensor

from distfa.codecs.base import to_bytes
from distfa.codecs.scaled import Int4
from distfa.codecs.staging import to_host


class DitheredInt4(Int4):
    """floor(x / scale + u), u uniform in (0, 1); read as int4.

    It is meant for errors. Rounding to nearest loses the small numbers of a row, always in the same way; since a layer
    sums over many rows, a correct mean is worth more than a small distance. Activations do better with rounding to
    nearest.
    What one message loses is not added to the next one, since that has other samples.

    u follows from the signal alone, by a counter-based generator, so a signal has one payload on every machine.
    Source: Gupta et al., "Deep learning with limited numerical precision", ICML 2015.
    """

    name = "int4sr"
    error_bound = "a step, 1/7 of the largest magnitude in the row; 2^-17 of a step in the mean"

    def round(self, scaled: Tensor) -> Tensor:
        """Round up with a probability equal to the fraction; always on the CPU, wherever the signal was."""
        scaled = to_host(scaled)
        return scaled.add_(_uniform(scaled)).floor_()


def _uniform(scaled: Tensor) -> Tensor:
    """Midpoints of the 65536 parts of (0, 1), drawn with the CRC-32C of the numbers as key; float32, same shape."""
    count = scaled.numel()
    words = np.random.Philox(key=google_crc32c.value(to_bytes(scaled))).random_raw(-(-count // 4))
    parts = torch.from_numpy(words.view(np.int16)[:count]).view(scaled.shape)
    return parts.float().mul_(2.0**-16).add_(0.5 + 2.0**-17)
