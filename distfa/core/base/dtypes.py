"""Which numbers of a module follow the run's dtype: its parameters, and the buffers that have the parameters' dtype.

All others keep theirs, to the last bit: integers, complex numbers (a rotary embedding), a count kept in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def to_dtype(module: nn.Module, dtype: torch.dtype, device: torch.device | str = "cpu") -> nn.Module:
    """The module of one layer, moved to a device, with the numbers that follow the run in its dtype."""
    own = {parameter.dtype for parameter in module.parameters()}

    def moved(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype if tensor.dtype in own else None)

    module._apply(moved)  # type: ignore[no-untyped-call]
    return module
