"""Data sets by name, from a user's files, or from arrays; all become a validated ``Dataset``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from distfa.data.archive import load_archive
from distfa.data.arrays import from_arrays
from distfa.data.cifar import load_cifar
from distfa.data.dataset import Dataset, validate
from distfa.data.digits import load_digits
from distfa.data.hub import load_hub
from distfa.data.mnist import load_mnist
from distfa.data.request import WINDOW, Request
from distfa.data.shards.load import load_shards
from distfa.data.stdlib import load_stdlib
from distfa.errors import DataError
from distfa.text.words import not_among

__all__ = ["NAMES", "WINDOW", "Dataset", "from_arrays", "load", "validate"]

_LOADERS: Mapping[str, Callable[[Request], Dataset]] = {
    "digits": load_digits,
    "stdlib": load_stdlib,
    "mnist": load_mnist,
    "fashion_mnist": load_mnist,
    "cifar10": load_cifar,
    "cifar100": load_cifar,
    "npz": load_archive,
    "hub": load_hub,
    "shards": load_shards,
}

NAMES: tuple[str, ...] = tuple(_LOADERS)


def load(
    name: str,
    *,
    directory: str | Path | None = None,
    limit: int | None = None,
    classes: int | None = None,
    hub: str | None = None,
    label: str | None = None,
    window: int = WINDOW,
) -> Dataset:
    """Load a data set by name.

    Args:
        name: One of ``NAMES``. ``digits`` and ``stdlib`` need no files.
        directory: Where the files are, or the path of an .npz file; for ``hub`` the cache directory; for ``shards``
            also any URL that fsspec knows.
        limit: Keep only the first ``limit`` samples of each split. Scale and number of classes are still those of the
            whole data set.
        classes: Number of classes, if not the number that the data set says (for ``npz``: its largest label plus 1).
        hub: For ``hub``, what ``datasets.load_dataset`` takes.
        label: For ``shards``, the array, column or ending of labels; None: ``y`` in .npz, ``label`` in Parquet, ``cls``
            in tar files.
        window: For ``shards``, how many are held in memory and shuffled together.

    Raises:
        DataError: The name is unknown, files are missing or damaged, or a rule of ``validate`` is broken.
    """
    if name not in _LOADERS:
        raise DataError(f"data set {name!r} {not_among(name, NAMES)}")
    for option, value in (("limit", limit), ("classes", classes), ("window", window)):
        if value is not None and value < 1:
            raise DataError(f"{option} is {value}; it must be at least 1, or left out")
    if hub is not None and name != "hub":
        raise DataError(f"hub={hub!r} was given with data set {name!r}; name the data set 'hub', or leave hub out")
    if label is not None and name != "shards":
        raise DataError(f"label={label!r} was given with data set {name!r}; it is for 'shards': leave it out")
    path = None if directory is None else Path(directory).expanduser()
    place = None if directory is None else str(directory)
    request = Request(name=name, directory=path, classes=classes, hub=hub, place=place, label=label, window=window)
    dataset = _LOADERS[name](request)
    asked = {"name": name, "dir": place, "limit": limit, "hub": hub, "label": label, "window": window}
    if limit is not None:  # rows by number are a copy, so that the others can be freed
        dataset = validate(dataset.take(*(np.arange(min(limit, len(x))) for x in (dataset.train_x, dataset.test_x))))
    return dataclasses.replace(dataset, loaded=asked)
