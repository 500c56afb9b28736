"""uint8, uint4, uint2: use all levels for numbers that are not negative, as after a ReLU."""

from __future__ import annotations

import torch
from torch import Tensor

from distfa.codecs.scaled import RowScaled


class Unsigned(RowScaled):
    """A row without negative numbers has 2^bits levels from 0 to its largest; any other row half as many per sign.

    So it is twice as fine as int8 or int4 on activations that are not negative, and still correct on others. A row with
    negative numbers has a negative scale. A row of width d takes w = ceil(d bits / 8) bytes: number i is in byte i mod
    w, in the bits from bits * (i div w) on.
    """

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.name = f"uint{bits}"
        self.top = 2**bits - 1
        self.signed_top = 2 ** (bits - 1) - 1
        self.error_bound = (
            f"half a step: 1/{2 * self.top} of the largest magnitude in a row without negative numbers, "
            f"1/{2 * self.signed_top} in others"
        )

    def row_bytes(self, columns: int) -> int:
        """``bits`` bits per number, padded to whole bytes."""
        return -(-columns // (8 // self.bits))

    def tops(self, signal: Tensor) -> Tensor:
        """The top of every row; negative if the row has negative numbers."""
        return torch.where(signal.amin(dim=1, keepdim=True) < 0, -float(self.signed_top), float(self.top))

    def write(self, scaled: Tensor) -> Tensor:
        """The numbers, rounded to nearest, in two's complement, several to a byte."""
        levels = torch.nan_to_num_(scaled.round_(), nan=0.0).to(torch.int16).bitwise_and_(self.top).to(torch.uint8)
        packed = torch.zeros(len(levels), self.row_bytes(levels.shape[1]), dtype=torch.uint8, device=levels.device)
        for place, part in enumerate(torch.split(levels, max(1, packed.shape[1]), dim=1)):
            packed[:, : part.shape[1]] |= part << (place * self.bits)
        return packed

    def read(self, rows: Tensor, columns: int, dtype: torch.dtype) -> Tensor:
        """The levels, read as if no row had a sign."""
        parts = [(rows >> (place * self.bits)) & self.top for place in range(8 // self.bits)]
        return torch.cat(parts, dim=1)[:, :columns].to(dtype)

    def numbers(self, body: Tensor, columns: int, scale: Tensor) -> Tensor:
        """The numbers, with signs extended in rows whose scale is negative."""
        levels = self.read(body, columns, scale.dtype)
        levels -= ((scale < 0) & (levels > self.signed_top)) * (self.top + 1)
        return levels.mul_(scale.abs())
