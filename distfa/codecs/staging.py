"""Signals between a GPU and the wire, by page-locked memory, which a GPU copies without help of the processor.

A layer has a process, and so a GPU stream, of its own. torch keeps page-locked memory for the next signal, and does
not hand it out while a copy still reads it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def to_host(signal: Tensor) -> Tensor:
    """The signal in the processor's memory; itself if it is there."""
    signal = signal.detach()
    if signal.device.type != "cuda":
        return signal.cpu()
    host = torch.empty(signal.shape, dtype=signal.dtype, pin_memory=True)
    host.copy_(signal, non_blocking=True)
    torch.cuda.current_stream(signal.device).synchronize()
    return host


def to_device(signal: Tensor, device: torch.device) -> Tensor:
    """The signal in the device's memory, where work queued after this finds it; itself on the CPU."""
    if device.type != "cuda":
        return signal.to(device)
    return signal.pin_memory().to(device, non_blocking=True)
