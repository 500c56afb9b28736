"""Residual networks whose stream nothing changes but sums: pre-activation blocks between fixed shortcuts."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distfa.errors import ModelError
from distfa.models.images import Shape, image

Start = Literal["torch", "scaled", "zero"]
Shortcut = Literal["pad", "orthogonal"]
Head = Literal["norm", "pool"]


class PaddedShortcut(nn.Module):
    """Halves height and width by averages, and doubles the channels by zeros."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, height, width) to (n, 2 c, height / 2, width / 2), rounded up."""
        return F.pad(F.avg_pool2d(x, 2, ceil_mode=True), (0, 0, 0, 0, 0, x.shape[1]))


class OrthogonalShortcut(nn.Module):
    """Four pixels become one with four times the channels, of which a fixed orthogonal projection keeps half.

    So every channel above has a path. The projection is drawn, and never trained.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        projection = nn.init.orthogonal_(torch.empty(2 * channels, 4 * channels))
        self.register_buffer("projection", projection[:, :, None, None].contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, height, width) to (n, 2 c, height / 2, width / 2)."""
        return F.conv2d(F.pixel_unshuffle(x, 2), self.get_buffer("projection"))


class PreActivationBlock(nn.Module):
    """shortcut(x) + branch(x): normalisation, ReLU and a 3x3 convolution, twice; nothing comes after the sum.

    Args:
        before: Channels of the input.
        after: Channels of the output: as many, or twice as many at half the height and width.
        shortcut: How a stream that changes its shape goes on: ``pad`` or ``orthogonal``.

    Source: K. He et al., Identity mappings in deep residual networks, 2016.
    """

    def __init__(self, before: int, after: int, shortcut: Shortcut = "pad") -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.BatchNorm2d(before),
            nn.ReLU(),
            nn.Conv2d(before, after, 3, stride=after // before, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
        )
        smaller = PaddedShortcut() if shortcut == "pad" else OrthogonalShortcut(before)
        self.shortcut = nn.Identity() if before == after else smaller

    def forward(self, x: Tensor) -> Tensor:
        """(n, before, height, width) to (n, after, height, width), or half of both, rounded up."""
        out: Tensor = self.shortcut(x) + self.branch(x)
        return out


def preact_resnet(
    shape: Shape,
    outputs: int,
    *,
    depth: int = 3,
    width: int = 16,
    start: Start = "zero",
    shortcut: Shortcut = "orthogonal",
    head: Head = "pool",
) -> nn.Sequential:
    """A pre-activation ResNet of three stages: a convolution, blocks of 1, 2 and 4 times ``width`` channels, a readout.

    Args:
        shape: Of one sample, at least 4x4; height and width multiples of 4 for ``orthogonal``.
        outputs: Number of classes.
        depth: Blocks of a stage; 3 is ResNet-20.
        width: Channels of the first stage.
        start: As for ``start_branches``.
        shortcut: Where a stage begins: ``pad``, or ``orthogonal``, which keeps a path to every channel.
        head: ``norm``: normalisation, ReLU, mean over positions, Linear; ``pool``: the mean comes first.

    Raises:
        ModelError: Not an image, or of a size that the shortcuts do not take.
    """
    channels, height, wide = image("preact_resnet", shape, least=4)
    if shortcut == "orthogonal" and (height % 4 or wide % 4):
        raise ModelError(
            f"preact_resnet with orthogonal shortcuts halves height and width twice, but images are {height}x{wide}; "
            "set model.shortcut=pad"
        )
    stages = [width, 2 * width, 4 * width]
    before, blocks = width, []
    for after in stages:
        for _ in range(depth):
            blocks.append(PreActivationBlock(before, after, shortcut))
            before = after
    start_branches([block.branch for block in blocks], start)
    mean = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    readout = (
        (nn.BatchNorm2d(before), nn.ReLU(), *mean) if head == "norm" else (*mean, nn.BatchNorm1d(before), nn.ReLU())
    )
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False), *blocks, *readout, nn.Linear(before, outputs)
    )


def start_branches(branches: list[nn.Sequential], start: Start) -> None:
    """Set how large the branches of residual blocks begin, by the last layer of each.

    Args:
        branches: All of a network.
        start: ``torch``: as torch draws them; ``scaled``: divided by the root of their number, as in GPT-2; ``zero``:
            as zeros, so that every block begins as its shortcut.
    """
    factor = {"torch": 1.0, "scaled": len(branches) ** -0.5, "zero": 0.0}[start]
    for branch in branches if start != "torch" else []:
        last = [module for module in branch.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
        for parameter in last.parameters():
            parameter.data.mul_(factor)
