"""Where the error of the output begins: e = dLoss/dz_L, z_L what the last Linear or Conv gives.

That is so where only elementwise modules come after it, whatever their classes: modules without parameters that a trial
shows to make each number of the output from its own number of z_L. Else e = dLoss/d(output).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distfa.core.base.model import Shape
from distfa.core.base.seeding import Seeding
from distfa.core.modules.attributes import restore_afterwards

_ROWS, _TRIALS = 2, 4
_SCALES = (1.0, 30.0)  # of the numbers that are changed: a limit or a norm may matter only far out


def z_of(module: nn.Module, leaves: Sequence[tuple[str, nn.Module]], shape: Shape) -> str:
    """Name of the Linear or Conv that gives z_L; empty where e is dLoss/d(output).

    Args:
        module: The last layer, in training mode; left unchanged.
        leaves: Its modules one after another, with their names in it.
        shape: Of one sample of its input.
    """
    products = [i for i, (_, m) in enumerate(leaves) if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
    if not products or products[-1] == len(leaves) - 1:
        return ""
    name, product = leaves[products[-1]]
    tail = nn.Sequential(*(m for _, m in leaves[products[-1] + 1 :]))
    if next(tail.parameters(), None) is not None:
        return ""
    given: list[Tensor] = []
    hook = product.register_forward_hook(lambda _module, _args, out: given.append(out.detach()))
    x = torch.randn(_ROWS, *shape, generator=torch.Generator().manual_seed(0)).to(next(module.parameters()).dtype)
    with restore_afterwards(module), torch.no_grad(), Seeding(module).drawing_from(0):
        module(x)
    hook.remove()
    return name if is_elementwise(tail, given[-1]) else ""


def is_elementwise(tail: nn.Module, z: Tensor) -> bool:
    """Whether each number of the output is made from the number of ``z`` at its place, and from nothing else.

    Half of the numbers are changed, again and again another half: what the others become must not change in any bit.

    Args:
        tail: Without parameters; left unchanged.
        z: Some samples, (n, ...).
    """
    random = torch.Generator().manual_seed(0)
    first = _of(tail, z)
    flattened = first.dim() == 2 and first.numel() == z.numel()  # positions of a sequence stay axes of their own
    if first.shape != z.shape and not flattened:
        return False
    for scale in _SCALES * (_TRIALS // len(_SCALES)):
        kept = torch.rand(z.shape, generator=random) < 0.5
        other = torch.where(kept, z, (scale * torch.randn(z.shape, generator=random)).to(z))
        there, now = first.flatten()[kept.flatten()], _of(tail, other).flatten()[kept.flatten()]
        if not bool(((there == now) | (there.isnan() & now.isnan())).all()):
            return False
    return True


def _of(tail: nn.Module, z: Tensor) -> Tensor:
    with restore_afterwards(tail), torch.no_grad(), Seeding(tail).drawing_from(0):
        found: Tensor = tail(z.clone())
    return found
