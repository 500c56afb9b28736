"""Exact digests of signals: both ends of a link compute the same product, so any altered number shows.

The product is one of integers, modulo 2^64: the bits of the numbers times fixed odd weights. It does not round, and the
order of summation does not matter. Since odd weights can be divided out, one altered element always changes it. Several
altered elements escape with a chance of about 2^-64.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_MULTIPLIER = -7046029254386353131  # 2^64 / golden ratio, odd, as a signed number: Knuth's multiplicative hashing


_BLOCK_NUMBERS = 32 * 1024


@dataclass(frozen=True, kw_only=True)
class SignalPlace:
    """Where and when a signal was sent.

    Attributes:
        boundary: l.
        direction: ``up`` or ``down``.
        sender: The layer that sends.
        receiver: The layer that receives.
        step: Counted from 0.
        micro_batch: Within the step.
    """

    boundary: int
    direction: str
    sender: int
    receiver: int
    step: int
    micro_batch: int


@dataclass(frozen=True, kw_only=True)
class Digest(SignalPlace):
    """The digest of one signal at one end of a link.

    Attributes:
        end: ``sent`` or ``received``.
        value: The digest.
    """

    end: str
    value: int


@dataclass(frozen=True, kw_only=True)
class DigestRecord(SignalPlace):
    """Both ends' digests of one signal."""

    sent: int
    received: int

    @property
    def holds(self) -> bool:
        """Whether both ends used the same numbers, to the last bit."""
        return self.sent == self.received


def digest(signal: Tensor) -> int:
    """The digest of a bfloat16, float32 or float64 signal of any shape."""
    bits = signal.detach().contiguous().view(_WORDS[signal.element_size()]).flatten()
    return int((bits * _weights(len(bits), bits.device)).sum().item())


def of_matrix(matrix: Tensor) -> int:
    """The digest of a large tensor: that of its blocks' digests, so that little memory is needed."""
    blocks = torch.split(matrix.detach().flatten(), _BLOCK_NUMBERS)
    return digest(torch.tensor([digest(block) for block in blocks]))


@lru_cache(maxsize=8)
def _weights(length: int, device: torch.device) -> Tensor:
    """Odd numbers without a pattern, int64."""
    return torch.arange(1, length + 1, device=device).mul_(_MULTIPLIER).bitwise_or_(1)


def compare(a: Digest, b: Digest) -> DigestRecord:
    """The record of one signal from what its two ends say."""
    values: dict[str, Any] = {field.name: getattr(a, field.name) for field in fields(SignalPlace)}
    return DigestRecord(**values | {end.end: end.value for end in (a, b)})


def describe_difference(record: DigestRecord) -> str | None:
    """Describe the mismatch; None if both ends used the same numbers."""
    if record.holds:
        return None
    what = "activation" if record.direction == "up" else "error signal"
    return (
        f"boundary {record.boundary} (layers {record.boundary} and {record.boundary + 1}), step {record.step}, "
        f"going {record.direction}: the {what} of micro-batch {record.micro_batch} that layer {record.receiver} "
        f"used is not the one that layer {record.sender} sent: it was altered, lost, repeated or rounded in "
        "transit"
    )
