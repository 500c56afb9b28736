"""Data in common forms become a Dataset: arrays, tensors, pandas, torch data sets and loaders, Ray Data."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils import data as torch_data

from distfa import data
from distfa.core.order import drawn
from distfa.data.arrays import is_pair, read_pair, to_numpy
from distfa.data.conform import aligned, as_labels, conform, order_of
from distfa.data.dataset import Array
from distfa.data.labels import is_text, names_of, numbered
from distfa.data.reading import Reading
from distfa.data.stream import drawing_from, streamed, to_parts
from distfa.errors import DataError, SpecError
from distfa.experiment.layout import Layout, channels_first
from distfa.experiment.table import Given, as_table, beside_each_other, categories, of_table

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wish:
    """How to read the data.

    Attributes:
        epochs: Epochs of the run; 0: nothing is trained, and every sample is made once.
        seed: Seed of the run.
        tokens: Size of the vocabulary, if an Embedding reads the samples (``experiment.tokens``).
        target: The column of a table that is learned.
        floats: Whether targets may be quantities or shares: floats, and whole numbers in several columns.
        targets: Whether there must be targets.
        layout: The layout of a model that begins with a convolution.
        reading: What an earlier fit fixed.
        normalised: Whether samples are normalised already; None: as their numbers say.
    """

    epochs: int
    seed: int
    tokens: int | None = None
    target: str | None = None
    floats: bool = False
    targets: bool = True
    layout: Layout | None = None
    reading: Reading | None = None
    normalised: bool | None = None

    @property
    def learned(self) -> str | None:
        """The column of a table that is learned, if it is known."""
        return self.target or (self.reading.target if self.reading else None)


def dataset_of(train: Any, test: Any, wish: Wish) -> data.Dataset:
    """A Dataset of the data that were given, under the reading that an earlier fit has fixed, or under its own.

    Raises:
        DataError: It is in no form that is known, breaks a rule of ``validate``, or does not fit the reading.
        SpecError: Both train and test bring a test split.
    """
    if isinstance(train, data.Dataset):
        if test is not None:
            raise SpecError("train is a Dataset, which has its own test split; leave test out")
        made = train
    else:
        made = _read(train, test, wish)
    if wish.reading is None:
        made = channels_first(made, wish.layout)
    return conform(
        made,
        wish.reading or made.reading,
        convolves=wish.layout is not None,
        normalised=wish.normalised,
        targets=wish.targets,
    )


def _read(train: Any, test: Any, wish: Wish) -> data.Dataset:
    streams = _orders(train, wish) if wish.epochs else None
    parts = [*([] if streams else [train]), *([] if test is None else [test])]
    read, names = _numbered([_given(part, wish) for part in parts])
    if streams is not None:
        samples, orders = streams
        tests = None if test is None else (read[0].x, _targets(read[0], wish))
        return streamed(samples, tests, orders, seed=wish.seed, floats=wish.floats, tokens=wish.tokens)
    first, *others = read
    if not len(first.x) and not wish.epochs:
        raise DataError("there are no samples; give at least one")
    made = data.from_arrays(
        (first.x, _targets(first, wish)),
        *((_aligned(other, first, wish), _targets(other, wish)) for other in others),
        tokens=wish.tokens,
        outputs=_outputs(wish, names),
    )
    return dataclasses.replace(made, class_names=names, columns=first.columns, target=first.target)


def _outputs(wish: Wish, names: tuple[str, ...]) -> int | None:
    """How many classes there are, or columns of targets; None: the data say it."""
    if names or not wish.targets:
        return max(len(names), 1)
    return None if wish.reading is None else wish.reading.outputs


def is_streamed(train: Any) -> bool:
    """Whether its samples are made when they are read."""
    samples = train.dataset if isinstance(train, torch_data.DataLoader) else train
    return _is_map(samples) and _plain(samples) is None and (samples is train or _collates_plainly(train))


def _orders(train: Any, wish: Wish) -> tuple[Any, Iterator[Any]] | None:
    """The samples, and the order of every epoch: the loader's, or drawn from the seed. None if nothing is streamed."""
    if isinstance(train, torch_data.DataLoader):
        samples, own = train.dataset, _own_order(train)
        if not _is_map(samples) or not _collates_plainly(train):
            log.warning(
                "the DataLoader makes its batches itself (an IterableDataset, or its own collate_fn): it is read "
                "once, and every epoch has the same samples"
            )
            return None
        if _plain(samples) is not None and not own:
            return None
        if own:
            return samples, (list(_indices(train)) for _ in range(wish.epochs))
        count = _count(samples)
        return samples, (drawn(wish.seed, count, epoch) for epoch in range(wish.epochs))
    if _is_map(train) and _plain(train) is None:
        count = _count(train)
        return train, (drawn(wish.seed, count, epoch) for epoch in range(wish.epochs))
    return None


def _count(samples: Any) -> int:
    return len(samples)


def _is_map(samples: Any) -> bool:
    return (
        hasattr(samples, "__len__")
        and isinstance(samples, torch_data.Dataset)
        and not isinstance(samples, torch_data.IterableDataset)
    )


def _collates_plainly(loader: Any) -> bool:
    return loader.collate_fn is torch_data.default_collate and loader.batch_sampler is not None


def _own_order(loader: Any) -> bool:
    """Whether its owner chose the order: with a sampler, or with shuffling by a generator."""
    sampler = loader.sampler
    if isinstance(sampler, torch_data.RandomSampler) and not sampler.replacement:
        return sampler.generator is not None
    return not isinstance(sampler, torch_data.SequentialSampler)


def _indices(loader: Any) -> Iterator[int]:
    for batch in loader.batch_sampler:
        yield from batch


def _plain(samples: Any, *, targets: bool = True) -> tuple[Any, Any] | None:
    """(x, y) of a TensorDataset, or of a part of one: reading it draws no random numbers; y is x if not wanted."""
    if isinstance(samples, torch_data.Subset):
        whole = _plain(samples.dataset, targets=targets)
        rows = torch.as_tensor(list(samples.indices))
        return None if whole is None else (whole[0][rows], whole[1][rows])
    if not isinstance(samples, torch_data.TensorDataset):
        return None
    if not targets:
        return samples.tensors[0], samples.tensors[0]
    if len(samples.tensors) != 2:
        raise DataError(f"the TensorDataset has {len(samples.tensors)} tensors; it must have two, x and y")
    return samples.tensors[0], samples.tensors[1]


def _given(given: Any, wish: Wish) -> Given:
    """What was given, in memory."""
    if isinstance(given, data.Dataset):
        return _split_of(given, wish)
    if isinstance(given, torch_data.DataLoader) and _is_map(given.dataset) and _collates_plainly(given):
        given = given.dataset
    if _is_map(given):
        x, y = _plain(given, targets=wish.targets) or _made(given, wish)
        return Given(x=to_numpy(x, "x"), y=to_numpy(y, "y") if wish.targets else None)
    table = as_table(given)
    if table is not None:
        return of_table(table, wish.learned, wish.reading, targets=wish.targets, tokens=wish.tokens is not None)
    if is_pair(given) and (wish.targets or isinstance(given, tuple)):
        return _of_pair(given[0], given[1] if wish.targets else None, tokens=wish.tokens is not None)
    if not wish.targets:
        return Given(x=_inputs(given), y=None)
    x, y = read_pair(given, "arrays train")
    return Given(x=x, y=y)


def _of_pair(x: Any, y: Any, *, tokens: bool) -> Given:
    table = as_table(x)
    by_column = table is not None and (isinstance(x, Mapping) or x.to_numpy().dtype.kind == "O")
    named = hasattr(y, "to_numpy") and getattr(y, "name", None) is not None
    return Given(
        x=beside_each_other(table, tokens=tokens) if by_column and table is not None else to_numpy(x, "arrays train_x"),
        y=None if y is None else to_numpy(y, "arrays train_y", text=True),
        columns=() if table is None else tuple(table),
        target=str(y.name) if named else None,
        names=categories(y),
    )


def _split_of(dataset: data.Dataset, wish: Wish) -> Given:
    """The test split of a data set, or the only one that it has."""
    x, y = (dataset.test_x, dataset.test_y) if len(dataset.test_x) else (dataset.train_x, dataset.train_y)
    if wish.reading is None and ((dataset.mean != 0).any() or (dataset.std != 1).any()):
        x = ((x - dataset.mean) / dataset.std).astype(np.float32)  # arrays that are trained on are used as they are
    text = np.asarray(dataset.class_names)[y] if dataset.class_names and dataset.classification else y
    return Given(x=x.reshape(len(x), *dataset.shape), y=text, columns=dataset.columns, names=dataset.class_names)


def _inputs(given: Any) -> Array:
    """Inputs without targets: an array, a list of samples, or batches, each x or (x, ...)."""
    if isinstance(given, tuple | list) or hasattr(given, "__array__"):
        try:
            return to_numpy(given, "samples")
        except DataError:
            if not isinstance(given, tuple | list):
                raise
    if is_pair(given):
        return to_numpy(given[0], "samples")
    try:
        batches = [batch[0] if isinstance(batch, tuple | list) else batch for batch in given]
    except TypeError as exc:
        raise DataError(
            f"samples are a {type(given).__name__}; give an array, a tensor, a table, a data set or a loader"
        ) from exc
    if not batches:
        raise DataError("the iterable has no batches; a generator that was read before is empty")
    return np.concatenate([to_numpy(batch, f"batch {number}") for number, batch in enumerate(batches)])


def _made(samples: Any, wish: Wish) -> tuple[Array, Array]:
    """All samples of a data set, each made once."""
    xs, ys = [], []
    for index in range(len(samples)):
        with drawing_from(wish.seed, -1, index):
            sample = samples[index]
        x, y = to_parts(sample, index, tokens=wish.tokens is not None, targets=wish.targets)
        xs.append(x.reshape(np.shape(sample[0] if isinstance(sample, tuple | list) else sample)))
        ys.append(y)
    if not xs:
        raise DataError("the data set has no samples; leave it out, or give one that has")
    return np.stack(xs), np.stack(ys)


def _numbered(parts: list[Given]) -> tuple[list[Given], tuple[str, ...]]:
    """Text labels as numbers, and the names they stand for, in order."""
    text = [part.y for part in parts if part.y is not None and is_text(part.y)]
    if not text:
        return parts, ()
    if len(text) < len(parts):
        raise DataError(
            "labels of train are text and those of test are numbers, or the other way round; give both alike"
        )
    names = names_of(text, next((part.names for part in parts if part.names), ()))
    found = [dataclasses.replace(part, y=numbered(part.y, names, "labels")) for part in parts if part.y is not None]
    return found, names


def _aligned(part: Given, first: Given, wish: Wish) -> Array:
    """Inputs of the test data with columns and axes in the order of the training data's."""
    x = part.x
    if first.columns and part.columns and part.columns != first.columns:
        x = x[..., order_of(part.columns, first.columns)]
    return aligned(x, first.x.shape[1:], convolves=wish.layout is not None)


def _targets(part: Given, wish: Wish) -> Array:
    """Targets as numbers; zeros stand in for those that are not wanted."""
    y = part.y
    if y is None:
        return np.zeros(len(part.x), np.int64)
    if wish.reading is None:  # a first fit tells quantities from labels by their columns, or because they are floats
        quantities = wish.floats and (y.ndim > 1 or y.dtype.kind == "f")
    else:
        quantities = not wish.reading.labels
    if quantities and not is_text(y):
        y = y if y.dtype.kind == "f" else y.astype(np.float32)
        return y.reshape(-1, 1) if y.ndim == 1 else y
    return y if wish.reading is None or is_text(y) else as_labels(y, wish.reading)
