"""The interface of a codec: it turns a signal into bytes for the wire, and back.

Shapes: a signal is (n, d), in the run's dtype; a payload is a flat array of bytes.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distfa.codecs.staging import to_host

Payload = NDArray[np.uint8]


class Codec(Protocol):
    """One way to write signals."""

    @property
    def name(self) -> str:
        """Its name in the spec."""

    @property
    def error_bound(self) -> str:
        """In words, how far a decoded number may be from the encoded one."""

    @property
    def fixed_length(self) -> bool:
        """Whether every payload of a shape is as long as ``max_payload_bytes`` says; else some numbers take less."""

    def lossless(self, dtype: torch.dtype) -> bool:
        """Whether decode gives back every bit of a signal of ``dtype``."""

    def max_payload_bytes(self, rows: int, columns: int, dtype: torch.dtype) -> int:
        """Length of the payload of a (rows, columns) signal of ``dtype``; the greatest, if numbers decide it."""

    def encode(self, signal: Tensor) -> Payload:
        """The payload; may share the signal's memory."""

    def decode(self, payload: Payload, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        """The signal, shape (rows, columns), in new memory.

        A payload may be unaligned, and how BLAS rounds depends on alignment.

        Raises:
            ValueError: The payload does not belong to such a signal.
        """


def to_bytes(signal: Tensor) -> Payload:
    """A tensor's memory as bytes; copies only from a device or out of a strided view."""
    packed = to_host(signal).contiguous()
    # Torch calls a single column contiguous whatever its stride, but views only stride 1 as bytes.
    return packed.as_strided((packed.numel(),), (1,)).view(torch.uint8).numpy()


def from_bytes(payload: NDArray[Any], rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """A new tensor of ``dtype`` filled with the payload's bytes."""
    signal = torch.empty((rows, columns), dtype=dtype)
    signal.view(torch.uint8).numpy().reshape(-1)[:] = payload
    return signal


def require_bytes(payload: Payload, expected_bytes: int) -> None:
    """Raise ``ValueError`` if the payload has another length."""
    if payload.nbytes != expected_bytes:
        raise ValueError(f"got {payload.nbytes} bytes, expected {expected_bytes}; the payload does not fit its shape")
