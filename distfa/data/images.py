"""The common ground of MNIST-like and CIFAR image arrays: layout, pixel units and published constants."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distfa.data.build import Split, build_dataset, to_array
from distfa.data.checks import check_finite
from distfa.data.dataset import Array, Dataset
from distfa.data.request import Request
from distfa.errors import DataError

_WHITE = 255


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """A published image data set.

    Attributes:
        shape: (channels, height, width).
        classes: Number of classes.
        mean: Per channel, of pixels scaled to 0 .. 1.
        std: As ``mean``.
    """

    shape: tuple[int, int, int]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def build_images(request: Request, spec: ImageSpec, train: Split, test: Split) -> Dataset:
    """A Dataset from image arrays in any usual layout, pixels 0 .. 255 or floats 0 .. 1.

    Integer pixels become uint8. Float pixels stay as they are; when none in either split is above 1,
    mean and std are those of pixels 0 .. 1, otherwise 255 times that.

    Args:
        request: Its name and number of classes.
        spec: What the data set must look like.
        train: x (N, d), (N, H, W, C) or (N, C, H, W), and if C is 1 also (N, H, W); y (N,) or (N, 1).
        test: As ``train``.

    Raises:
        DataError: The shape is another, pixels are outside 0 .. 255, or a rule of ``validate`` is broken.
    """
    train_x = channel_first(train[0], spec, f"{request.name} train_x")
    test_x = channel_first(test[0], spec, f"{request.name} test_x")
    whites = [_white(x, f"{request.name} {split}_x") for split, x in (("train", train_x), ("test", test_x))]
    if len(train_x) and len(test_x) and (train_x.dtype.kind == "f") != (test_x.dtype.kind == "f"):
        raise DataError(
            f"{request.name}: train_x is {train_x.dtype} but test_x is {test_x.dtype}; both must be floats or "
            "both integers, otherwise their units are unknown"
        )
    white = max(whites)
    pixels = spec.shape[1] * spec.shape[2]
    repeat = pixels if len(spec.mean) > 1 else 1
    return build_dataset(
        name=request.name,
        train=(_to_bytes(train_x), _one_axis(train[1], f"{request.name} train_y")),
        test=(_to_bytes(test_x), _one_axis(test[1], f"{request.name} test_y")),
        outputs=spec.classes if request.classes is None else request.classes,
        scale=(np.repeat(np.array(spec.mean), repeat) * white, np.repeat(np.array(spec.std), repeat) * white),
        shape=spec.shape,
    )


def channel_first(value: Array, spec: ImageSpec, where: str) -> Array:
    """The images as (N, d), flattened from (C, H, W); a flat input is taken to be in that order.

    Raises:
        DataError: Its sample shape is not one of the accepted ones.
    """
    x = to_array(value, where)
    channels, height, width = spec.shape
    features = channels * height * width
    accepted = [(features,), spec.shape, (height, width, channels)]
    if channels == 1:
        accepted.append((height, width))
    if x.shape[1:] not in accepted:
        raise DataError(
            f"{where} has samples of shape {x.shape[1:]}; expected {features} features, in one of the shapes "
            f"{', '.join(map(str, accepted))}: check that these files belong to that data set"
        )
    if x.ndim == 4 and x.shape[1:] != spec.shape:
        x = x.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(x).reshape(len(x), features)


def _white(x: Array, where: str) -> int:
    """The pixel value that means white: 1 for float pixels 0 .. 1, otherwise 255."""
    if x.dtype == np.uint8:
        return _WHITE
    check_finite(x, where)
    low, high = (x.min(), x.max()) if x.size else (0, 0)
    if low < 0 or high > _WHITE:
        row, column = divmod(int(np.argmax((x < 0) | (x > _WHITE))), x.shape[1])
        raise DataError(
            f"{where} has pixel {x[row, column]} at row {row}, column {column}; pixels must be 0 .. {_WHITE} "
            "or floats 0 .. 1, not yet normalized: save the raw images"
        )
    return 1 if x.dtype.kind in "bf" and high <= 1 else _WHITE


def _to_bytes(x: Array) -> Array:
    return x if x.dtype.kind == "f" else x.astype(np.uint8, copy=False)


def _one_axis(y: Array, where: str) -> Array:
    labels = to_array(y, where)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise DataError(f"{where} has shape {labels.shape}; image labels must be (n,) or (n, 1)")
    return labels
