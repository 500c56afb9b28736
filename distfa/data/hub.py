"""Data sets of the Hugging Face hub, or local folders in its formats; needs the extra ``distfa[hub]``."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from distfa.data.build import Split, build_dataset, to_array
from distfa.data.dataset import Array, Dataset
from distfa.data.request import Request
from distfa.errors import DataError

LABELS = ("label", "labels", "fine_label")
_GREY_OR_COLOUR = ("L", "RGB")


def load_hub(request: Request) -> Dataset:
    """One image or array column and one label column of a hub data set.

    The splits are ``train``, and ``test`` or else ``validation``, if not empty. Inputs are the first image column, or
    else the first column of number arrays. Images are flattened from (C, H, W); grey stays one channel, modes other
    than grey and RGB become RGB. Mean and std are one number each, over the train split.

    Args:
        request: Its ``hub`` is what ``datasets.load_dataset`` takes; its directory, if any, is the cache.

    Raises:
        DataError: ``datasets`` is not installed, the data set cannot be loaded, or its columns do not fit.
    """
    if request.hub is None:
        raise DataError(
            f"data set {request.name!r} needs the path of a Hugging Face data set; give hub=, such as 'mnist'"
        )
    splits = _download(request)
    if "train" not in splits:
        raise DataError(f"hub data set {request.hub!r} has the splits {', '.join(splits)}; one must be train")
    train = splits["train"]
    x_column, y_column = _input_column(request.hub, train.features), _label_column(request.hub, train.features)
    test = next((splits[key] for key in ("test", "validation") if key in splits and len(splits[key])), None)
    classes = getattr(train.features[y_column], "num_classes", None)
    names = getattr(train.features[y_column], "names", None) if request.classes in (None, classes) else None
    return build_dataset(
        name=request.name,
        train=_read(train, x_column, y_column, f"hub data set {request.hub!r} train"),
        test=None if test is None else _read(test, x_column, y_column, f"hub data set {request.hub!r} test"),
        outputs=classes if request.classes is None else request.classes,
        class_names=tuple(names or ()),
    )


def _download(request: Request) -> Any:
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as exc:
        raise DataError(
            f"data set {request.name!r} needs the Hugging Face package, which is not installed; "
            'pip install "distfa[hub]"'
        ) from exc
    cache = None if request.directory is None else str(request.directory)
    try:
        splits = datasets.load_dataset(request.hub, cache_dir=cache)
    except Exception as exc:  # requests, httpx, huggingface_hub and datasets each raise their own
        first = (str(exc).splitlines() or [""])[0]
        raise DataError(
            f"hub data set {request.hub!r} cannot be loaded ({type(exc).__name__}: {first}); "
            "check the path and the network, or give the path of a local copy"
        ) from exc
    return splits


def _input_column(hub: str, features: Any) -> str:
    images = [name for name, kind in features.items() if type(kind).__name__ == "Image"]
    arrays = [name for name, kind in features.items() if name not in LABELS and _array_dtype(kind)]
    if not images and not arrays:
        raise DataError(
            f"hub data set {hub!r} has the columns {_list(features)}; one must hold images or number arrays"
        )
    return str((images or arrays)[0])


def _array_dtype(kind: Any) -> str | None:
    """The number type of a feature that is Array2D .. Array5D or a (nested) list of numbers, or None."""
    inner = kind
    while isinstance(inner, list) or hasattr(inner, "feature"):
        inner = inner[0] if isinstance(inner, list) else inner.feature
    dtype = str(getattr(inner, "dtype", ""))
    is_array = inner is not kind or type(kind).__name__.startswith("Array")
    return dtype if is_array and dtype.startswith(("int", "uint", "float", "bool")) else None


def _label_column(hub: str, features: Any) -> str:
    for name in LABELS:
        if name in features:
            return name
    raise DataError(f"hub data set {hub!r} has the columns {_list(features)}; one must be named {' or '.join(LABELS)}")


def _list(features: Any) -> str:
    return ", ".join(f"{name} ({type(kind).__name__})" for name, kind in features.items())


def _read(split: Any, x_column: str, y_column: str, where: str) -> Split:
    missing = [column for column in (x_column, y_column) if column not in split.features]
    if missing:
        raise DataError(f"{where} has no column {', '.join(missing)}; both splits must have the same columns")
    try:
        rows = _rows(split, x_column)
    except (ImportError, OSError, ValueError, TypeError) as exc:
        raise DataError(f"{where} column {x_column!r} cannot be read ({exc}); repair or drop such rows") from exc
    for number, row in enumerate(rows):
        if row.shape != rows[0].shape:
            raise DataError(
                f"{where} column {x_column!r} has shape {row.shape} at row {number} but {rows[0].shape} at row 0; "
                "all samples must have the same shape: resize them first"
            )
    x = np.stack(rows) if rows else np.empty((0, 1))
    return x, to_array(list(split[y_column]), f"{where} column {y_column!r}")


def _rows(split: Any, column: str) -> list[Array]:
    kind = split.features[column]
    if type(kind).__name__ == "Image":
        return [_pixels(image) for image in split[column]]
    dtype = _array_dtype(kind)  # the numpy format widens every integer to int64
    return [np.asarray(row, dtype) for row in split.with_format("numpy")[column]]


def _pixels(image: Any) -> Array:
    """A PIL image as (C, H, W) uint8."""
    if image is None:
        raise ValueError("a row has no image")
    if image.mode not in _GREY_OR_COLOUR:
        image = image.convert("RGB")
    pixels = np.asarray(image)
    return pixels[np.newaxis] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
