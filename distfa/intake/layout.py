"""The shape in which a model takes samples: images have channels first, as torch's convolutions read them."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.conv import _ConvNd

from distfa.data.conform import Shape, move_axes
from distfa.data.dataset import Dataset

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The input of a model's first convolution.

    Attributes:
        channels: Its input channels.
        axes: Number of axes in space: 2 for images.
        where: The convolution, as messages name it.
    """

    channels: int
    axes: int
    where: str

    def needs_channels_last(self, shape: Shape) -> bool:
        """Whether samples of a shape must have their channels last, because the shape cannot mean anything else."""
        return len(shape) == self.axes + 1 and shape[-1] == self.channels != shape[0]

    def lacks_channel_axis(self, shape: Shape) -> bool:
        """Whether samples of a shape lack the axis of their only channel."""
        return self.channels == 1 and len(shape) == self.axes


def layout_of(model: nn.Module) -> Layout | None:
    """The layout of a model whose first module with parameters is a convolution; None for any other."""
    named = ((name, m) for name, m in model.named_modules() if next(m.parameters(recurse=False), None) is not None)
    name, first = next(named, ("", None))
    if not isinstance(first, _ConvNd):
        return None
    return Layout(channels=first.in_channels, axes=len(first.kernel_size), where=f"{name} {type(first).__name__}")


def channels_first(dataset: Dataset, layout: Layout | None) -> Dataset:
    """The data set as the model reads it; if a sample's shape could be meant as it is, it is not changed.

    Raises:
        DataError: Channels are last in samples that are made when they are read.
    """
    shape = dataset.shape
    if layout is None or dataset.tokens is not None:
        return dataset
    if layout.lacks_channel_axis(shape):
        return dataclasses.replace(dataset, shape=(1, *shape))
    if not layout.needs_channels_last(shape):
        return dataset
    turned = move_axes(dataset, (len(shape) - 1, *range(len(shape) - 1)))
    log.warning("samples have shape %s: their channels are moved to the front, for %s", shape, layout.where)
    return turned
