"""Networks of fully connected layers, for flat samples (features,)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from distfa.models.residual import Start, start_branches


def mlp(
    features: int, outputs: int, hidden: Sequence[int] = (128, 128), activation: Callable[[], nn.Module] = nn.ReLU
) -> nn.Sequential:
    """A multi-layer perceptron: Linear and activation per hidden layer, then Linear.

    Args:
        features: Numbers per sample.
        outputs: Numbers per output.
        hidden: Widths of the hidden layers; none is a linear classifier.
        activation: Makes the module that follows each hidden layer.

    Returns:
        (n, features) -> (n, outputs).
    """
    widths = [features, *hidden]
    modules: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        modules += [nn.Linear(before, after), activation()]
    return nn.Sequential(*modules, nn.Linear(widths[-1], outputs))


class ResidualMLPBlock(nn.Module):
    """x + W_2 relu(W_1 LayerNorm(x)), (n, width) -> (n, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Both have shape (n, width)."""
        out: Tensor = x + self.branch(x)
        return out


def residual_mlp(
    features: int, outputs: int, width: int = 128, depth: int = 4, *, start: Start = "torch"
) -> nn.Sequential:
    """A residual perceptron: Linear, ``depth`` blocks, LayerNorm, Linear.

    Args:
        features: Numbers per sample.
        outputs: Numbers per output.
        width: Width of the residual stream.
        depth: Number of blocks.
        start: As for ``start_branches``.

    Returns:
        (n, features) -> (n, outputs).
    """
    blocks = [ResidualMLPBlock(width) for _ in range(depth)]
    start_branches([block.branch for block in blocks], start)
    return nn.Sequential(nn.Linear(features, width), *blocks, nn.LayerNorm(width), nn.Linear(width, outputs))
