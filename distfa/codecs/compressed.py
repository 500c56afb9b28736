"""name+zstd: any codec's payload, made shorter by zstd without loss."""

from __future__ import annotations

import numpy as np
import torch
import zstandard
from torch import Tensor

from distfa.codecs.base import Codec, Payload

SUFFIX = "+zstd"
_LEVEL = 1  # higher levels take several times as long and save a few per cent more


class Compressed:
    """The payload of another codec as one zstd frame that states its length; a signal without rows has no bytes.

    Activations after a ReLU are mostly zeros, and numbers of few bits take few values, which repeat often: int4 takes
    about 2 bits a number, int8 about 4. The frame's length depends on the numbers and on zstd's version; what is
    decoded does not.
    Source: RFC 8878.
    """

    fixed_length = False

    def __init__(self, inner: Codec) -> None:
        self.inner = inner
        self.name = inner.name + SUFFIX
        self.error_bound = inner.error_bound

    def lossless(self, dtype: torch.dtype) -> bool:
        """Whether the other codec is lossless."""
        return self.inner.lossless(dtype)

    def max_payload_bytes(self, rows: int, columns: int, dtype: torch.dtype) -> int:
        """If nothing can be made shorter: the other codec's length and what zstd adds (ZSTD_compressBound)."""
        longest = self.inner.max_payload_bytes(rows, columns, dtype)
        short = max(0, (128 << 10) - longest) >> 11
        return longest + (longest >> 8) + short if longest else 0

    def encode(self, signal: Tensor) -> Payload:
        """The frame."""
        payload = self.inner.encode(signal)
        if not payload.nbytes:
            return payload
        return np.frombuffer(zstandard.ZstdCompressor(level=_LEVEL).compress(payload.data), np.uint8)

    def decode(self, payload: Payload, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        """The frame's content for the inner codec; the stated length is checked before memory is allocated."""
        longest = self.inner.max_payload_bytes(rows, columns, dtype)
        if not longest or not payload.nbytes:
            return self.inner.decode(payload, rows, columns, dtype)
        try:
            said = zstandard.frame_content_size(payload.data)
            if not 0 <= said <= longest:
                raise ValueError(f"it claims to hold {said} bytes, expected at most {longest}")
            inside = zstandard.ZstdDecompressor().decompress(payload.data, allow_extra_data=False)
        except zstandard.ZstdError as exc:
            raise ValueError(f"its {payload.nbytes} bytes are not a single zstd frame: {exc}") from exc
        return self.inner.decode(np.frombuffer(inside, np.uint8), rows, columns, dtype)
