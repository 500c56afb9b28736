"""Codecs that write every number as a float of some width: fp64, fp32, bf16."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from distfa.codecs.base import Payload, from_bytes, require_bytes, to_bytes


@dataclass(frozen=True)
class FloatCodec:
    """Numbers rounded to nearest even in ``wire_dtype``, row after row.

    Attributes:
        name: What the spec calls it.
        wire_dtype: The float type on the wire.
        error_bound: As a share of the number, for numbers in the type's normal range.
    """

    name: str
    wire_dtype: torch.dtype
    error_bound: str
    fixed_length: ClassVar[bool] = True

    def lossless(self, dtype: torch.dtype) -> bool:
        """Whether ``wire_dtype`` holds every number of ``dtype``."""
        return torch.promote_types(dtype, self.wire_dtype) == self.wire_dtype

    def max_payload_bytes(self, rows: int, columns: int, dtype: torch.dtype) -> int:
        """rows x columns x width of the float on the wire, exactly."""
        return rows * columns * self.wire_dtype.itemsize

    def encode(self, signal: Tensor) -> Payload:
        """The numbers, rounded to ``wire_dtype``."""
        return to_bytes(signal.to(self.wire_dtype))

    def decode(self, payload: Payload, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        """The numbers, widened or narrowed to ``dtype``."""
        require_bytes(payload, self.max_payload_bytes(rows, columns, dtype))
        return from_bytes(payload, rows, columns, self.wire_dtype).to(dtype)


FP64 = FloatCodec("fp64", torch.float64, "exact")
FP32 = FloatCodec("fp32", torch.float32, "exact in float32 runs; 2^-24 of the number in float64 runs")
BF16 = FloatCodec("bf16", torch.bfloat16, "2^-8 of the number; exact in bfloat16 runs")
