"""The table of codecs: how signals are written on the wire."""

from __future__ import annotations

import torch
from torch import Tensor

from distfa.codecs.base import Codec, Payload
from distfa.codecs.compressed import Compressed
from distfa.codecs.floats import BF16, FP32, FP64
from distfa.codecs.own_codec import accept
from distfa.codecs.packed import Packed
from distfa.codecs.scaled import DitheredInt4, Fp8, Int4, Int8, Unsigned
from distfa.own.parts import Parts

__all__ = ["CODECS", "FP32", "LOSSLESS", "Codec", "Payload", "carry", "resolve"]

_ALL: tuple[Codec, ...] = (
    FP32,
    FP64,
    BF16,
    Fp8(),
    Int8(),
    Int4(),
    DitheredInt4(),
    Unsigned(8),
    Unsigned(4),
    Unsigned(2),
    Packed(),
)

CODECS: Parts[Codec] = Parts("codec", {codec.name: codec for codec in (*_ALL, *map(Compressed, _ALL))}, accept)

LOSSLESS = "lossless"
"""In a spec: the codec that keeps every bit of the signals' dtype."""

_EXACT = {torch.bfloat16: "bf16", torch.float32: "fp32", torch.float64: "fp64"}


def resolve(name: str, dtype: torch.dtype) -> Codec:
    """The codec a spec names, ``lossless`` being bf16, fp32 or fp64 by the dtype of signals."""
    return CODECS[_EXACT[dtype] if name == LOSSLESS else name]


def carry(codec: Codec, signal: Tensor) -> Tensor:
    """The signal as its receiver sees it: encoded and decoded with ``codec``; unchanged if lossless."""
    if codec.lossless(signal.dtype):
        return signal
    rows, columns = signal.shape
    return codec.decode(codec.encode(signal), rows, columns, signal.dtype).to(signal.device)
