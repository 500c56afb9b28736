"""The check for NaN and infinity on what crosses a boundary and on the loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from distfa.errors import NonFiniteError

_FIX = "lower the learning rate, or check the data and the loss"


def require_finite(signal: Tensor, what: str, *, layer: int, step: int) -> None:
    """Raise where ``signal`` holds NaN or infinity.

    Args:
        signal: Any shape.
        what: What it is and where it comes from, for the message: "activation from layer 2".
        layer: The layer that received it.
        step: The step it belongs to.

    Raises:
        NonFiniteError: How many values are not finite, of how many.
    """
    # A sum is finite unless an element is not finite or the sum overflows. So one cheap pass is enough for nearly every
    # message, and elements are counted only where the sum is not finite.
    if math.isfinite(signal.sum().item()):
        return
    bad = signal.numel() - int(torch.isfinite(signal).sum())
    if bad:
        raise NonFiniteError(
            f"layer {layer}, step {step}: {bad} of {signal.numel()} values of {what} are NaN or infinite; {_FIX}"
        )


def require_finite_loss(loss: float, *, layer: int, step: int) -> None:
    """Raise ``NonFiniteError`` where the loss is NaN or infinite."""
    if not math.isfinite(loss):
        raise NonFiniteError(f"layer {layer}, step {step}: the loss is {loss}; {_FIX}")
