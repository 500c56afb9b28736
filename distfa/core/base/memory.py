"""Where numbers lie: in which order in memory, and whether in memory of their own."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def lay_out_like(tensor: Tensor, other: Tensor) -> Tensor:
    """The same numbers in the other's order in memory: a convolution in channels_last has its own.

    torch's fused optimizers, and views that are made by strides, take it for granted that orders are equal.

    Args:
        tensor: Any shape.
        other: Of the same shape.
    """
    if tensor.stride() == other.stride() and not tensor.storage_offset():
        return tensor
    return torch.empty_like(other, dtype=tensor.dtype).copy_(tensor)


def own_memory(module: nn.Module | None) -> nn.Module | None:
    """The module, with its parameters in memory of their own: pickle sends all the memory in which a part lies."""
    if module is None or all(p.untyped_storage().nbytes() == p.nbytes for p in module.parameters()):
        return module
    return copy.deepcopy(module)
