"""Checks that a module keeps its parts, their modes and its parameters while it is trained.

The layer keeps its parameters by where they lie in memory, and its state by the names that it had at the start. A
forward that moves or renames them, or changes numbers that are trained, would be trained as something else.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from distfa.errors import ModelError

_LATE = (
    "creates, removes or replaces it in a forward pass, but what is trained must be known beforehand; run "
    "one batch first"
)
_MOVED = "gives it new memory in its forward pass (p.data = ...); change it in place: p.data.copy_(...)"


def structure_of(module: nn.Module, trained: Collection[str] = ()) -> dict[str, Any]:
    """By name: what must stay as it is; of the parameters that are trained, also the sum of their numbers."""
    found: dict[str, Any] = {}
    for prefix, part in module.named_modules():
        found[f"module {prefix!r}"] = (id(part), part.training)
        for name, parameter in part._parameters.items():
            if parameter is not None:
                total = parameter.detach().sum().item().hex() if f"{prefix}.{name}" in trained else ""
                found[f"parameter '{prefix}.{name}'"] = (parameter.data_ptr(), parameter.requires_grad, total)
        for name, buffer in part._buffers.items():
            if name not in part._non_persistent_buffers_set:
                found[f"buffer '{prefix}.{name}'"] = None if buffer is None else tuple(buffer.shape)
    return found


def require_constant(before: dict[str, Any], module: nn.Module, trained: Collection[str] = ()) -> None:
    """Refuse a module whose forward has changed what must stay, as ``structure_of`` told it.

    Raises:
        ModelError: Names the part and what to do.
    """
    now = structure_of(module, trained)
    if now == before:
        return
    if made := sorted(now.keys() ^ before.keys()):
        raise ModelError(f"{made[0]}: the module {_LATE}")
    name = next(name for name in before if before[name] != now[name])
    if name.startswith("buffer"):
        raise ModelError(
            f"{name} changes its shape from {before[name]} to {now[name]} in a forward pass, so that saved "
            "weights could not be loaded; register it with persistent=False"
        )
    if before[name][0] != now[name][0]:
        raise ModelError(f"{name}: the module {_LATE if name.startswith('module') else _MOVED}")
    if before[name][:2] == now[name][:2]:
        raise ModelError(
            f"{name} has other numbers after a forward pass, but only the optimizer may change what is trained; leave "
            "that out, or freeze it (requires_grad_(False))"
        )
    what = "mode (training or evaluation)" if name.startswith("module") else "requires_grad"
    raise ModelError(
        f"{name} has a different {what} after a forward pass; set it before training, and do not change it"
    )
