"""packed: leaves out the zeros of ReLU and keeps every other bit."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from distfa.codecs.base import Payload, require_bytes, to_bytes


class Packed:
    """One bit per number says whether it is kept, padded to whole bytes per row; then come the kept numbers.

    Only +0.0 is left out: -0.0 and NaN are kept as they are. A signal without zeros takes one bit per number more than
    fp32 or fp64.
    """

    name = "packed"
    error_bound = "exact"
    fixed_length = False

    def lossless(self, dtype: torch.dtype) -> bool:
        """Always."""
        return True

    def max_payload_bytes(self, rows: int, columns: int, dtype: torch.dtype) -> int:
        """A signal without zeros: rows x (columns / 8, rounded up, + columns x width of ``dtype``)."""
        return rows * (_bitmap_bytes(columns) + columns * dtype.itemsize)

    def encode(self, signal: Tensor) -> Payload:
        """The bits and the kept numbers."""
        words = to_bytes(signal).view(f"i{signal.dtype.itemsize}")
        kept = words != 0  # +0.0 is the only float with no bit set
        bitmap = np.packbits(kept.reshape(signal.shape), axis=1)
        return np.concatenate([bitmap.reshape(-1), words[np.flatnonzero(kept)].view(np.uint8)])

    def decode(self, payload: Payload, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        """The kept numbers in their places, and zeros elsewhere."""
        head = rows * _bitmap_bytes(columns)
        if payload.nbytes < head:
            raise ValueError(
                f"got {payload.nbytes} bytes, expected at least the {head} that mark which numbers are stored"
            )
        bits = np.unpackbits(payload[:head].reshape(rows, _bitmap_bytes(columns)), axis=1).view(np.bool_)
        if bits[:, columns:].any():
            raise ValueError(f"it marks numbers beyond column {columns} as stored")
        places = np.flatnonzero(bits[:, :columns])
        require_bytes(payload, head + len(places) * dtype.itemsize)
        signal = torch.zeros((rows, columns), dtype=dtype)
        words = f"i{dtype.itemsize}"
        signal.view(torch.uint8).numpy().reshape(-1).view(words)[places] = payload[head:].view(words)
        return signal


def _bitmap_bytes(columns: int) -> int:
    return (columns + 7) // 8
