"""Codecs with one scale per row: int8, int4, int4sr, fp8, and uint8, uint4, uint2 for numbers that are not negative."""

from __future__ import annotations

from abc import ABC, abstractmethod

import google_crc32c
import numpy as np
import torch
from torch import Tensor

from distfa.codecs.base import Payload, from_bytes, require_bytes, to_bytes
from distfa.codecs.staging import to_host

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

    def row_bytes(self, columns: int) -> int:
        """Bytes of one row without its scale: one per number, unless a codec packs them."""
        return columns

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
        """The numbers in (n, row_bytes) uint8, times scale (n, 1), in its dtype."""
        return self.read(body, columns, scale.dtype).mul_(scale)

    def tops(self, signal: Tensor) -> Tensor:
        """The largest magnitude that x / scale may have, per row or for all rows; its sign is that of the scale."""
        return torch.tensor(self.top, device=signal.device)


class Int8(RowScaled):
    """One signed byte per number, -127 to 127."""

    name = "int8"
    error_bound = "half a step: 1/254 of the largest magnitude in the row"
    top = 127

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

    def write(self, scaled: Tensor) -> Tensor:
        """The numbers, rounded to nearest even."""
        return scaled.to(torch.float8_e4m3fn)

    def read(self, rows: Tensor, columns: int, dtype: torch.dtype) -> Tensor:
        """The numbers from a table, which is four times as fast as torch's conversion."""
        return _E4M3.index_select(0, rows.view(-1).int()).view(len(rows), columns).to(dtype)


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
