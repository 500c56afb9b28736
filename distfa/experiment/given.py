"""Data in common forms become a Dataset: arrays, tensors, pandas, torch data sets and loaders, Ray Data."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils import data as torch_data

from distfa import data
from distfa.core.order import drawn
from distfa.data.stream import drawing_from, streamed, to_parts
from distfa.errors import DataError

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wish:
    """How to read the data.

    Attributes:
        epochs: Epochs of the run.
        seed: Seed of the run.
        tokens: Size of the vocabulary, if the model begins with an Embedding.
        target: The column of a table that is learned.
        floats: Whether targets are quantities or shares, even if they are whole numbers.
    """

    epochs: int
    seed: int
    tokens: int | None = None
    target: str | None = None
    floats: bool = False


def dataset_of(train: Any, test: Any, wish: Wish) -> data.Dataset:
    """A Dataset of the data that were given.

    Raises:
        DataError: It is not one of these, or breaks a rule of ``validate``.
    """
    streams = _orders(train, wish)
    if streams is not None:
        samples, orders = streams
        pair = None if test is None else _numbers(_pair(test, wish), "test", wish.floats)
        return streamed(samples, pair, orders, seed=wish.seed, floats=wish.floats)
    pairs = [_pair(train, wish), None if test is None else _pair(test, wish)]
    pairs, names = _numbered(pairs)
    if wish.floats:
        pairs = [pair and (pair[0], _as_floats(pair[1])) for pair in map(_whole, pairs)]
    made = data.from_arrays(pairs[0], pairs[1], tokens=wish.tokens)
    return dataclasses.replace(made, class_names=names) if names else made


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


def _plain(samples: Any) -> tuple[Any, Any] | None:
    """(x, y) of a TensorDataset, or of a part of one: reading it draws no random numbers."""
    if isinstance(samples, torch_data.Subset):
        whole = _plain(samples.dataset)
        rows = torch.as_tensor(list(samples.indices))
        return None if whole is None else (whole[0][rows], whole[1][rows])
    if not isinstance(samples, torch_data.TensorDataset):
        return None
    if len(samples.tensors) != 2:
        raise DataError(f"the TensorDataset has {len(samples.tensors)} tensors; it must have two, x and y")
    return samples.tensors[0], samples.tensors[1]


def _pair(given: Any, wish: Wish) -> Any:
    """(x, y), or the data itself if it is an iterable of batches."""
    if isinstance(given, torch_data.DataLoader) and _is_map(given.dataset) and _collates_plainly(given):
        given = given.dataset
    if _is_map(given):
        return _plain(given) or _made(given, wish.seed)
    if hasattr(given, "iter_batches") and hasattr(given, "schema"):  # Ray Data
        parts = _in_order(given)
        given = {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else {})}
    if hasattr(given, "columns") and hasattr(given, "to_numpy"):  # pandas
        given = {str(name): given[name].to_numpy() for name in given.columns}
    if isinstance(given, dict):
        return _of_columns(given, wish.target)
    if isinstance(given, tuple) and len(given) == 2:
        return tuple(part.to_numpy() if hasattr(part, "to_numpy") else part for part in given)
    return given


def _in_order(given: Any) -> list[Any]:
    """Batches of Ray Data with the order of rows kept, so that a run can be repeated."""
    options = given.context.execution_options
    before, options.preserve_order = options.preserve_order, True
    try:
        return list(given.iter_batches(batch_format="numpy"))
    finally:
        options.preserve_order = before


def _of_columns(columns: dict[str, Any], target: str | None) -> tuple[Any, Any]:
    """A table: one column is learned from all the others, side by side, or from the only other one."""
    name = target or next((name for name in ("y", "label", "target") if name in columns), None)
    if name is None or name not in columns:
        raise DataError(
            f"the table has columns {', '.join(columns)}"
            + (f", and none is called {target!r}" if target else "; say which is learned: fit(table, target=NAME)")
        )
    rest = {key: np.asarray(value) for key, value in columns.items() if key != name}
    if text := next((key for key, value in rest.items() if value.dtype.kind not in "buif"), None):
        raise DataError(
            f"column {text!r} holds {rest[text].dtype}; inputs must be numbers: encode it, as pandas.get_dummies does, "
            "or leave it out"
        )
    if len(rest) == 1:
        return next(iter(rest.values())), np.asarray(columns[name])
    return np.column_stack([value.astype(np.float64) for value in rest.values()]).astype(np.float32), np.asarray(
        columns[name]
    )


def _made(samples: Any, seed: int) -> tuple[Any, Any]:
    """All samples of a data set, each made once."""
    xs, ys = [], []
    for index in range(len(samples)):
        with drawing_from(seed, -1, index):
            sample = samples[index]
        x, y = to_parts(sample, index)
        xs.append(x.reshape(np.shape(sample[0])))
        ys.append(y)
    if not xs:
        raise DataError("the data set has no samples; leave it out, or give one that has")
    return np.stack(xs), np.stack(ys)


def _numbered(pairs: list[Any]) -> tuple[list[Any], tuple[str, ...]]:
    """Text labels as numbers, and the names they stand for, in order."""
    texts = [
        np.asarray(pair[1]).astype(str)
        for pair in pairs
        if isinstance(pair, tuple) and len(pair) == 2 and np.asarray(_host(pair[1])).dtype.kind in "UO"
    ]
    if not texts:
        return pairs, ()
    names = np.unique(np.concatenate(texts))
    found = [pair and (pair[0], np.searchsorted(names, np.asarray(pair[1]).astype(str))) for pair in pairs]
    return found, tuple(map(str, names))


def _host(value: Any) -> Any:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value


def _whole(pair: Any) -> Any:
    """(x, y) of all batches, joined."""
    if pair is None or (isinstance(pair, tuple) and len(pair) == 2):
        return pair
    batches = list(pair)
    return tuple(np.concatenate([np.asarray(_host(batch[part])) for batch in batches]) for part in (0, 1))


def _as_floats(y: Any) -> Any:
    found = np.asarray(_host(y))
    found = found if found.dtype.kind == "f" else found.astype(np.float32)
    return found.reshape(-1, 1) if found.ndim == 1 else found


def _numbers(pair: Any, what: str, floats: bool) -> Any:
    x, y = _whole(pair)
    return np.asarray(_host(x)), _as_floats(y) if floats else np.asarray(_host(y))
