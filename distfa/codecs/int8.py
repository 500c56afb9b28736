"""int8: one scale per row, one signed byte per number."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from distfa.codecs.base import Payload, from_bytes, to_bytes

_LEVELS = 127


class Int8:
    """q = round(x / scale), scale = max |row| / 127; the payload is all scales (float32), then all q.

    A row that holds NaN or infinity has a scale that is not finite, so it decodes to numbers that are
    not finite: bad values do not vanish on the wire.
    """

    name = "int8"
    error_bound = "half a step: 1/254 of the largest magnitude in the row"

    def lossless(self, dtype: torch.dtype) -> bool:
        """Never."""
        return False

    def payload_bytes(self, rows: int, columns: int) -> int:
        """rows x (4 + columns)."""
        return rows * (4 + columns)

    def encode(self, signal: Tensor) -> Payload:
        """Scales and levels of every row."""
        scale = signal.abs().amax(dim=1, keepdim=True).float().div_(_LEVELS)
        step = torch.where(scale == 0, 1.0, scale)  # a row of zeros has no scale to divide by
        levels = signal.div(step).round_().clamp_(-_LEVELS, _LEVELS).to(torch.int8)
        return np.concatenate([to_bytes(scale), to_bytes(levels)])

    def decode(self, payload: Payload, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        """levels x scale."""
        scale = from_bytes(payload[: 4 * rows], rows, 1, torch.float32).to(dtype)
        levels = from_bytes(payload[4 * rows :], rows, columns, torch.int8).to(dtype)
        return levels.mul_(scale)
