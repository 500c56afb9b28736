"""The optimizers, by torch.optim: one per layer, because a layer's update is local."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Which optimizer, and its settings; names and meanings are torch.optim's.

    Attributes:
        name: ``sgd``, ``adam`` or ``adamw``.
        lr: Learning rate.
        momentum: SGD only.
        nesterov: SGD only.
        betas: Adam and AdamW only.
        eps: Adam and AdamW only.
        weight_decay: L2 penalty (decoupled for AdamW).
    """

    name: str = "adam"
    lr: float = 1e-3
    momentum: float = 0.0
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0


NAMES: tuple[str, ...] = ("sgd", "adam", "adamw")


def build(config: OptimizerConfig, parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
    """A torch optimizer over one layer's parameters, fused: one pass over memory instead of several."""
    if config.name == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
            fused=True,
        )
    adam: type[torch.optim.Adam] = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return adam(
        parameters,
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )
