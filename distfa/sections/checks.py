"""The sections of a model in turn give what the model gives, before anything starts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distfa.core.base.seeding import Seeding
from distfa.core.modules.attributes import copy_module
from distfa.errors import ModelError
from distfa.sections.division import Division

_ROUND_OFF = 1e-5  # as a part of the largest number; the operations are the same, in the same order

Found = dict[str, Tensor | None]


def require_equal(model: nn.Module, division: Division, batch: Tensor) -> None:
    """Refuse a division that computes something else: outputs, gradients, buffers, in training and evaluation.

    Args:
        model: The model; left unchanged.
        division: Its layers.
        batch: Some samples.

    Raises:
        ModelError: Says what differs.
    """
    for training in (True, False):
        whole, cut = (copy_module(model, "the model") for _ in range(2))
        for copied in (whole, cut):
            if not training:
                copied.eval()
        theirs, ours = _compute(whole, [whole], batch), _compute(cut, division.parts(cut), batch)
        for name, value in theirs.items():
            if not _agree(value, ours[name]):
                raise ModelError(
                    f"the layers in turn do not compute what the model computes in "
                    f"{'training' if training else 'evaluation'}: {name} differ. Its forward does something that "
                    "a trace does not see; write it as an nn.Sequential of its blocks (docs/how-to/own-model.md)"
                )


def _compute(model: nn.Module, parts: Sequence[nn.Module], batch: Tensor) -> Found:
    with Seeding(model).drawing_from(0), torch.enable_grad():
        x = batch.clone()
        for part in parts:
            x = part(x)
        parameters = dict(model.named_parameters())
        found: Found = {"outputs": x.detach()}
        if x.requires_grad:
            wanted = {name: p for name, p in parameters.items() if p.requires_grad}
            gradients = torch.autograd.grad(x, [*wanted.values()], torch.ones_like(x), allow_unused=True)
            found |= {f"gradients of {n!r}": g for n, g in zip(wanted, gradients, strict=True)}
    return found | {f"the numbers of {name!r}": b for name, b in model.named_buffers()}


def _agree(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    if one.shape != other.shape:
        return False
    scale = one.detach().nan_to_num().abs().max().item() if one.numel() else 0.0
    return torch.allclose(one.double(), other.double(), rtol=0.0, atol=_ROUND_OFF * scale, equal_nan=True)
