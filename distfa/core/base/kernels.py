"""Which kernels a GPU computes with: the same ones every time, in the precision that the run asks for.

torch's own choice is faster: cuDNN takes a convolution kernel that may add in another order each time, attention does
the same, and float32 is rounded to 19 bits (TF32) before it is multiplied. Then engines would not agree, a resumed run
would differ from one that was not interrupted, and the books would show the rounding. CPUs need none of this: one
thread is enough.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import deterministic

_BACKENDS: Any = torch.backends  # the modules of torch.backends set their attributes when they are loaded
_PRODUCTS = (_BACKENDS.cuda.matmul, _BACKENDS.cudnn.conv, _BACKENDS.cudnn.rnn)
_ATTENTION = tuple(
    (getattr(_BACKENDS.cuda, f"{kind}_sdp_enabled"), getattr(_BACKENDS.cuda, f"enable_{kind}_sdp"))
    for kind in ("flash", "mem_efficient", "cudnn")
)


@contextmanager
def deterministic_kernels(device: torch.device) -> Iterator[None]:
    """Compute with kernels that give the same bits every time, and in full float32; then restore the settings.

    A module without such a kernel still runs, and torch warns and names it: then runs may differ in their last bits.

    Args:
        device: Nothing is changed for ``cpu``.

    Source: torch's notes on reproducibility; cuBLAS, results reproducibility.
    """
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    precisions, benchmark = [products.fp32_precision for products in _PRODUCTS], torch.backends.cudnn.benchmark
    attention, filled = [enabled() for enabled, _ in _ATTENTION], deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    strict, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    for products in _PRODUCTS:
        products.fp32_precision = "ieee"
    for _, enable in _ATTENTION:
        enable(False)  # leaves the plain one, which adds in a fixed order in the backward pass
    torch.backends.cudnn.benchmark = deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        for products, precision in zip(_PRODUCTS, precisions, strict=True):
            products.fp32_precision = precision
        for (_, enable), was in zip(_ATTENTION, attention, strict=True):
            enable(was)
        torch.backends.cudnn.benchmark = benchmark
        deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
        torch.use_deterministic_algorithms(strict, warn_only=warns)
