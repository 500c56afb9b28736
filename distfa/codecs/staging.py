"""Moves signals between a GPU and the wire through page-locked memory, which a GPU copies without the processor's help.

Every layer has its own process and so its own GPU stream. torch keeps page-locked memory for the next signal, and does
not hand it out while a copy still reads it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def to_host(signal: Tensor) -> Tensor:
    """The signal in the processor's memory; the same tensor if it is there already."""
    signal = signal.detach()
    if signal.device.type != "cuda":
        return signal.cpu()
    host = torch.empty(signal.shape, dtype=signal.dtype, pin_memory=True)
    host.copy_(signal, non_blocking=True)
    torch.cuda.current_stream(signal.device).synchronize()
    return host


def to_device(signal: Tensor, device: torch.device) -> Tensor:
    """The signal in the device's memory, ready for work that is queued after this; the same tensor on the CPU."""
    if device.type != "cuda":
        return signal.to(device)
    return signal.pin_memory().to(device, non_blocking=True)
