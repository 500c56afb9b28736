"""The shape in which a model takes samples: images have channels first, as torch's convolutions read them."""

from __future__ import annotations

import dataclasses
import logging
import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from distfa.data.dataset import Array, Dataset
from distfa.errors import DataError

log = logging.getLogger(__name__)
Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What the first convolution of a model reads.

    Attributes:
        channels: Its input channels.
        axes: Number of axes in space: 2 for images.
        where: The convolution, as messages name it.
    """

    channels: int
    axes: int
    where: str

    def last(self, shape: Shape) -> bool:
        """Whether samples of a shape must have their channels last, because the shape cannot mean anything else."""
        return len(shape) == self.axes + 1 and shape[-1] == self.channels != shape[0]

    def none(self, shape: Shape) -> bool:
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
    if layout.none(shape):
        return dataclasses.replace(dataset, shape=(1, *shape))
    if not layout.last(shape):
        return dataset
    if not isinstance(dataset.train_x, np.ndarray):
        raise DataError(
            f"samples of the data set have shape {shape}, with their channels last, and {layout.where} reads them "
            f"first: let __getitem__ return x.permute({', '.join(map(str, (layout.axes, *range(layout.axes))))})"
        )
    log.warning("samples have shape %s: their channels are moved to the front, for %s", shape, layout.where)

    def turned(rows: Array) -> Array:
        return np.ascontiguousarray(np.moveaxis(rows.reshape(len(rows), *shape), -1, 1)).reshape(rows.shape)

    def of_features(scale: Array) -> Array:
        return scale if scale.size == 1 else turned(scale[None])[0]

    return dataclasses.replace(
        dataset,
        train_x=turned(dataset.train_x),
        test_x=turned(dataset.test_x),
        mean=of_features(dataset.mean),
        std=of_features(dataset.std),
        shape=(shape[-1], *shape[:-1]),
    )


def as_read(samples: Tensor, layout: Layout | None, taken: Shape | None) -> Tensor:
    """Samples (n, ...) in the shape the model takes, from any in which ``fit`` takes them.

    Args:
        samples: Flat, in the model's shape, or with their channels last.
        layout: The layout of the model.
        taken: Shape of one sample, if a fit has shown it.

    Raises:
        DataError: The shape is not the one that the model was trained on.
    """
    shape = tuple(samples.shape[1:])
    if layout is not None and layout.last(shape):
        samples = samples.movedim(-1, 1)
    elif layout is not None and layout.none(shape):
        samples = samples.unsqueeze(1)
    if taken is None or tuple(samples.shape[1:]) == taken:
        return samples
    if min(len(shape), len(taken)) < 2 and math.prod(shape) == math.prod(taken):
        return samples.reshape(len(samples), *taken)
    raise DataError(f"samples have shape {shape}, and the model was trained on {taken}; give them in the same shape")
