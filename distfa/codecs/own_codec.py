"""A user's own codec, held to what the wire expects of every codec."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from distfa.codecs.base import Payload
from distfa.codecs.staging import to_host
from distfa.own.parts import made

_NEEDED = ("encode", "decode", "max_payload_bytes")


class OwnCodec:
    """A codec with the members that a user's own may leave out.

    It needs ``encode(signal)``, which returns bytes or an array of them; ``decode(payload, rows, columns, dtype)``; and
    ``max_payload_bytes(rows, columns, dtype)``. ``lossless(dtype)`` is False, and ``fixed_length`` too, unless it says
    otherwise.

    Args:
        given: The codec.

    Raises:
        ValueError: It lacks a method.
    """

    def __init__(self, given: Any) -> None:
        if missing := [f"{name}()" for name in _NEEDED if not callable(getattr(given, name, None))]:
            raise ValueError(f"is a {type(given).__name__} without {', '.join(missing)}, which a codec must have")
        if hasattr(given, "lossless") and not callable(given.lossless):
            raise ValueError("has lossless as a value; make it a method, lossless(dtype), or leave it out")
        self._given = given
        self.name = str(getattr(given, "name", type(given).__name__))
        self.error_bound = str(getattr(given, "error_bound", "not stated"))
        self.fixed_length = bool(getattr(given, "fixed_length", False))

    def lossless(self, dtype: torch.dtype) -> bool:
        """What it says; False if it says nothing."""
        return bool(self._given.lossless(dtype)) if hasattr(self._given, "lossless") else False

    def max_payload_bytes(self, rows: int, columns: int, dtype: torch.dtype) -> int:
        """What it says."""
        return int(self._given.max_payload_bytes(rows, columns, dtype))

    def encode(self, signal: Tensor) -> Payload:
        """The payload of the signal, which the codec gets in the host's memory.

        Raises:
            ValueError: It is longer than ``max_payload_bytes``.
        """
        made = self._given.encode(to_host(signal))
        payload = np.frombuffer(made, np.uint8) if isinstance(made, bytes | bytearray | memoryview) else made
        if not isinstance(payload, np.ndarray) or payload.dtype != np.uint8 or payload.ndim != 1:
            raise ValueError(f"codec {self.name}: encode must return bytes, or a flat array of uint8")
        rows, columns = signal.shape
        most = self.max_payload_bytes(rows, columns, signal.dtype)
        if payload.nbytes > most or (self.fixed_length and payload.nbytes != most):
            raise ValueError(
                f"codec {self.name}: encode made {payload.nbytes} bytes of a signal of shape ({rows}, {columns}), but "
                f"max_payload_bytes says {most}"
            )
        return np.ascontiguousarray(payload)

    def decode(self, payload: Payload, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        """The signal, in new memory.

        Raises:
            ValueError: The codec refuses the payload, or makes something else of it.
        """
        signal = self._given.decode(payload, rows, columns, dtype)
        if not isinstance(signal, Tensor) or signal.shape != (rows, columns) or signal.dtype != dtype:
            found = f"{tuple(signal.shape)}, {signal.dtype}" if isinstance(signal, Tensor) else type(signal).__name__
            raise ValueError(f"codec {self.name}: decode returned {found}, expected ({rows}, {columns}), {dtype}")
        return signal.contiguous().clone()


def accept(given: Any) -> OwnCodec:
    """The codec that a user gives: an object, or a class that is called without arguments.

    Raises:
        ValueError: It is no codec.
    """
    return OwnCodec(made(given))
