"""name+zstd: any codec's payload, made shorter by zstd without loss."""

from __future__ import annotations

import numpy as np
import torch
import zstandard
from torch import Tensor

from distfa.codecs.base import Codec, Payload

SUFFIX = "+zstd"
_LEVEL = 1  # higher ones take several times as long for a few per cent


class Compressed:
    """The payload of another codec as one zstd frame that says its length; a signal without rows is no bytes.

    Activations after a ReLU are mostly zeros, and few numbers of few bits are alike often: int4 comes to some 2 bits a
    number, int8 to some 4. The frame's length depends on the numbers and on zstd's version, what is decoded does not.
    Source: RFC 8878.
    """

    fixed_length = False

    def __init__(self, inner: Codec) -> None:
        self.inner = inner
        self.name = inner.name + SUFFIX
        self.error_bound = inner.error_bound

    def lossless(self, dtype: torch.dtype) -> bool:
        """As the other codec."""
        return self.inner.lossless(dtype)

    def max_payload_bytes(self, rows: int, columns: int, dtype: torch.dtype) -> int:
        """Where nothing can be made shorter: the other codec's, and what zstd adds (ZSTD_compressBound)."""
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
        """What the other codec reads in the frame, whose length is checked before memory is taken for it."""
        longest = self.inner.max_payload_bytes(rows, columns, dtype)
        if not longest or not payload.nbytes:
            return self.inner.decode(payload, rows, columns, dtype)
        try:
            said = zstandard.frame_content_size(payload.data)
            if not 0 <= said <= longest:
                raise ValueError(f"it says it holds {said} bytes, expected at most {longest}")
            inside = zstandard.ZstdDecompressor().decompress(payload.data, allow_extra_data=False)
        except zstandard.ZstdError as exc:
            raise ValueError(f"its {payload.nbytes} bytes are not one zstd frame: {exc}") from exc
        return self.inner.decode(np.frombuffer(inside, np.uint8), rows, columns, dtype)
