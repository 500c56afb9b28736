"""Residual networks with every kind of shortcut, and the shortcuts as functions of their own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

ORTHOGONAL = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(1)))[0]


def unchanged(x):
    return x


def pooled(x):
    return F.avg_pool2d(x, 2)


def subsampled(x):
    """Every second pixel, and twice the channels: those that are new are zero."""
    return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, x.shape[1]))


def turned(x):
    """Four pixels become one with four times the channels, of which some directions are kept."""
    deep = F.pixel_unshuffle(x, 2)
    return torch.einsum("oc,nchw->nohw", ORTHOGONAL[: deep.shape[1] // 2, : deep.shape[1]].to(x), deep)


class Block(nn.Module):
    """shortcut(x) + branch(x), with nothing after the sum."""

    def __init__(self, before, after, shortcut=unchanged, stride=1):
        super().__init__()
        self.shortcut = shortcut
        self.branch = nn.Sequential(
            nn.BatchNorm2d(before),
            nn.ReLU(),
            nn.Conv2d(before, after, 3, stride=stride, padding=1),
            nn.Tanh(),
            nn.Conv2d(after, after, 1),
        )

    def forward(self, x):
        return self.shortcut(x) + self.branch(x)


def stack():
    """Seven hidden layers: a stem and six blocks, three of which halve the image, each by another shortcut."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        Block(4, 4),
        Block(4, 4, pooled, stride=2),
        Block(4, 8, subsampled, stride=2),
        Block(8, 8),
        Block(8, 16, turned, stride=2),
        Block(16, 16),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


SHAPE, CLASSES = (2, 16, 16), 3
