"""Codecs with one scale per row: int8, int4, fp8."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from distfa.codecs.base import Payload, from_bytes, require_bytes, to_bytes

_SCALE_BYTES = 4
_E4M3 = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()  # the number that every byte stands for


class RowScaled(ABC):
    """x / scale in few bits, scale = max |row| / top; the payload is all scales (float32), then all rows.

    A row with NaN or infinity has a scale that is not finite, so it decodes to numbers that are not finite: bad values
    do not disappear on the wire.
    """

    name: str
    error_bound: str
    fixed_length = True
    top: float
    """The largest magnitude that x / scale may have in any row."""

    @abstractmethod
    def row_bytes(self, columns: int) -> int:
        """Bytes of one row without its scale."""

    @abstractmethod
    def write(self, scaled: Tensor) -> Tensor:
        """Write numbers of at most ``top``, shape (n, d), as (n, row_bytes) bytes of any dtype; may overwrite them."""

    @abstractmethod
    def read(self, rows: Tensor, columns: int, dtype: torch.dtype) -> Tensor:
        """Read numbers, shape (n, columns), in ``dtype``, from (n, row_bytes) uint8."""

    def lossless(self, dtype: torch.dtype) -> bool:
        """Never."""
        return False

    def max_payload_bytes(self, rows: int, columns: int, dtype: torch.dtype) -> int:
        """rows x (4 + row_bytes), exactly."""
        return rows * (_SCALE_BYTES + self.row_bytes(columns))

    def encode(self, signal: Tensor) -> Payload:
        """Scales and rows."""
        signal = signal.detach().to(torch.promote_types(signal.dtype, torch.float32))
        magnitude = signal.abs()
        tops = self.tops(signal)
        scale = magnitude.amax(dim=1, keepdim=True).float().div_(tops)
        step = torch.where(scale == 0, 1.0, scale.abs())  # a row of zeros has no scale to divide by
        # A subnormal scale is so coarse that a quotient may be larger than the top.
        scaled = torch.div(signal, step, out=magnitude).clamp_(-tops.abs(), tops.abs())
        return np.concatenate([to_bytes(scale), to_bytes(self.write(scaled))])

    def decode(self, payload: Payload, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        """Numbers x scale."""
        require_bytes(payload, self.max_payload_bytes(rows, columns, dtype))
        scales, wide = _SCALE_BYTES * rows, torch.promote_types(dtype, torch.float32)
        scale = from_bytes(payload[:scales], rows, 1, torch.float32).to(wide)
        body = from_bytes(payload[scales:], rows, self.row_bytes(columns), torch.uint8)
        return self.numbers(body, columns, scale).to(dtype)

    def numbers(self, body: Tensor, columns: int, scale: Tensor) -> Tensor:
        """What was written in (n, row_bytes) uint8, times scale (n, 1), in its dtype."""
        return self.read(body, columns, scale.dtype).mul_(scale)

    def tops(self, signal: Tensor) -> Tensor:
        """The largest magnitude that x / scale may have, per row or for all rows; its sign is that of the scale."""
        return torch.tensor(self.top, device=signal.device)


class Int8(RowScaled):
    """One signed byte per number, -127 to 127."""

    name = "int8"
    error_bound = "half a step: 1/254 of the largest magnitude in the row"
    top = 127

    def row_bytes(self, columns: int) -> int:
        """One byte per number."""
        return columns

    def write(self, scaled: Tensor) -> Tensor:
        """The numbers, rounded to nearest."""
        return scaled.round_().to(torch.int8)

    def read(self, rows: Tensor, columns: int, dtype: torch.dtype) -> Tensor:
        """The bytes."""
        return rows.view(torch.int8).to(dtype)


class Int4(RowScaled):
    """Half a byte per number, -7 to 7: the first half of a row in the low bits, the second half in the high bits."""

    name = "int4"
    error_bound = "half a step: 1/14 of the largest magnitude in the row"
    top = 7

    def row_bytes(self, columns: int) -> int:
        """Half a byte per number; a row of odd width leaves the last half unused."""
        return (columns + 1) // 2

    def round(self, scaled: Tensor) -> Tensor:
        """Round to nearest."""
        return scaled.round_()

    def write(self, scaled: Tensor) -> Tensor:
        """The rounded numbers, two to a byte."""
        columns = scaled.shape[1]
        half = self.row_bytes(columns)
        levels = self.round(scaled).to(torch.int8)
        pairs = levels[:, :half] & 0x0F
        pairs[:, : columns - half] |= levels[:, half:] << 4
        return pairs

    def read(self, rows: Tensor, columns: int, dtype: torch.dtype) -> Tensor:
        """The two halves of every byte, with their signs extended."""
        pairs, half = rows.view(torch.int8), rows.shape[1]
        levels = torch.empty((len(rows), columns), dtype=dtype)
        levels[:, :half] = (pairs << 4) >> 4
        levels[:, half:] = pairs[:, : columns - half] >> 4
        return levels


class Fp8(RowScaled):
    """One e4m3 float per number; the scale puts the row's largest magnitude at 448, the largest of e4m3."""

    name = "fp8"
    error_bound = "2^-4 of the number, or 2^-18 of the largest magnitude in the row where that is more"
    top = 448

    def row_bytes(self, columns: int) -> int:
        """One byte per number."""
        return columns

    def write(self, scaled: Tensor) -> Tensor:
        """The numbers, rounded to nearest even."""
        return scaled.to(torch.float8_e4m3fn)

    def read(self, rows: Tensor, columns: int, dtype: torch.dtype) -> Tensor:
        """The numbers from a table, which is four times as fast as torch's conversion."""
        return _E4M3.index_select(0, rows.view(-1).int()).view(len(rows), columns).to(dtype)
