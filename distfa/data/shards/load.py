"""A data set in shards as a ``Dataset`` that reads them when a run does."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from distfa.data.dataset import Dataset, check_scale
from distfa.data.reading import InputSummary
from distfa.data.request import Request
from distfa.data.shards.files import ShardFiles
from distfa.data.shards.index import index_of
from distfa.data.shards.rows import ShardInputs, ShardLabels
from distfa.errors import DataError
from distfa.files import find_in_folder

EXPECTED = "a folder, or a URL for fsspec, with shards whose names begin with train and test"


def load_shards(request: Request) -> Dataset:
    """Samples and labels in .npz, Parquet or tar files; mean and std are one number each, over the train split.

    Args:
        request: Its place is where the shards are.

    Raises:
        DataError: There are none, or one cannot be used.
    """
    if request.place is None:
        request.require_directory(EXPECTED)
    place = find_in_folder(str(request.place), os.getcwd())  # workers have working directories of their own
    files = ShardFiles(place=place, label=request.label)
    index = index_of(files)
    classes = max(len(index.train.counts), len(index.test.counts))
    if request.classes is not None and request.classes < classes:
        raise DataError(f"{request.name}: the largest label is {classes - 1}, but there are {request.classes} classes")
    raw = InputSummary(index.mean, index.std, index.largest)
    form = {"shape": (math.prod(index.shape),), "dtype": index.dtype}
    train: Any = ShardInputs(files, index.train, raw=raw, window=request.window, **form)
    train_y: Any = ShardLabels(files, index.train, window=request.window)
    test: Any = ShardInputs(files, index.test, raw=raw, window=1, **form)  # they are read in order
    test_y: Any = ShardLabels(files, index.test, window=1)
    dataset = Dataset(
        name=request.name,
        train_x=train,
        train_y=train_y,
        test_x=test,
        test_y=test_y,
        outputs=classes if request.classes is None else request.classes,
        mean=np.array([index.mean]),
        std=np.array([index.std]),
        measured=True,
        shape=tuple(index.shape),
        shards=tuple(index.train.rows),
    )
    check_scale(dataset)
    return dataset
