"""Loaders of torch: what a batch is, her loader says. The rows of a run are those that torch's own loop would see.

Samples that are put together in the usual way are made when they are read, in every epoch anew (``stream``). A loader
that makes its batches itself (its own ``collate_fn``, an IterableDataset) is read before the start, epoch by epoch,
because two layers read it in two processes; equal rows are kept once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import psutil
from torch.utils import data as torch_data

from distfa.core.base.order import draw_order
from distfa.data.arrays import read_batch
from distfa.data.dataset import Array
from distfa.data.drawing import drawing_from, generators_in
from distfa.data.given_order import GivenOrder
from distfa.errors import DataError, SpecError
from distfa.intake.sampling import (
    MOST_ROWS,
    is_map,
    list_epochs,
    samples_one_by_one,
    shuffles_freely,
    tensors_of,
)

_SHARE = 0.5  # of the memory that is free when reading begins: more is not read ahead


@dataclass(frozen=True, kw_only=True)
class RowSettings:
    """The settings of a run that decide which rows are read.

    Attributes:
        epochs: Epochs of the run.
        max_steps: Where it ends; None for no limit.
        batch_size: Samples per step, where no loader says it.
        seed: The run's.
        sampled: What the loader's sampler gave when the run began, in a resumed run.
    """

    epochs: int
    max_steps: int | None
    batch_size: int
    seed: int
    sampled: GivenOrder | None = None


@dataclass(frozen=True, kw_only=True)
class LoaderRows:
    """The training rows that a run takes.

    Attributes:
        pair: (x, y) of all samples, if they are in memory.
        samples: What makes them when they are read, if they are not.
        keys: The keys of these samples.
        order: Which of them is in every row; None: drawn from the seed, in batches of the run's size.
        recorded: The keys in every row, where only the loader could say them.
    """

    pair: tuple[Any, Any] | None = None
    samples: Any = None
    keys: Sequence[Any] = ()
    order: GivenOrder | None = None
    recorded: GivenOrder | None = None


def take_rows(train: Any, asked: RowSettings) -> LoaderRows | None:
    """Take from a torch data set or loader the rows of a run; None for data in another form.

    Raises:
        DataError: The sampler gives no samples, or has no end; or a resumed run had other samples.
    """
    if isinstance(train, torch_data.IterableDataset):
        train = torch_data.DataLoader(train, batch_size=asked.batch_size)
    if not isinstance(train, torch_data.DataLoader):
        if not is_map(train) or tensors_of(train) is not None:
            return None
        return LoaderRows(samples=train, keys=range(len(train)), order=order_from_seed(len(train), asked))
    if not samples_one_by_one(train):
        return read_ahead(train, asked)
    tensors = tensors_of(train.dataset)
    if tensors is not None and shuffles_freely(train) and not train.drop_last:
        return LoaderRows(pair=tensors)
    keys, order, own = order_of(train, asked)
    recorded = order_keys(keys, order) if own else None
    if tensors is None:
        return LoaderRows(samples=train.dataset, keys=keys, order=order, recorded=recorded)
    return LoaderRows(pair=(tensors[0][list(keys)], tensors[1][list(keys)]), order=order, recorded=recorded)


def order_from_seed(count: int, asked: RowSettings, *, drop_last: bool = False) -> GivenOrder:
    """Permutations of all samples, drawn from the seed, in batches of ``batch_size``."""
    size = asked.batch_size
    per_epoch = count // size if drop_last else -(-count // size)
    epochs = asked.epochs if asked.max_steps is None else min(asked.epochs, -(-asked.max_steps // max(per_epoch, 1)))

    def batches(epoch: int) -> list[Any]:
        rows = draw_order(asked.seed, count, epoch)
        return [rows[at * size : (at + 1) * size] for at in range(per_epoch)]

    return GivenOrder.of(map(batches, range(epochs)))


def order_of(loader: torch_data.DataLoader[Any], asked: RowSettings) -> tuple[Sequence[Any], GivenOrder, bool]:
    """The keys of samples, which of them is in every row, and whether only the loader could say that.

    Raises:
        DataError: The sampler gives no samples, or has no end; or a resumed run had other samples.
    """
    if shuffles_freely(loader):
        whole: Any = loader.dataset
        count, size = len(whole), loader.batch_size or asked.batch_size
        return range(count), order_from_seed(count, replace(asked, batch_size=size), drop_last=loader.drop_last), False
    epochs = list_epochs(loader, epochs=asked.epochs, max_steps=asked.max_steps, seed=asked.seed)
    if asked.sampled is not None:  # drawn all the same, so that generators are where they would have been
        _require_there(loader.dataset, asked.sampled)
        return (*_compact(asked.sampled), True)
    keys = {key: None for epoch in epochs for batch in epoch for key in batch}
    if all(isinstance(key, int) for key in keys):
        return (*_compact(GivenOrder.of(epochs)), True)
    number = {key: at for at, key in enumerate(keys)}
    return list(keys), GivenOrder.of([[number[key] for key in batch] for batch in epoch] for epoch in epochs), False


def _compact(order: GivenOrder) -> tuple[Sequence[int], GivenOrder]:
    return order.used.tolist(), order.without_unused()


def _require_there(samples: Any, order: GivenOrder) -> None:
    if len(samples) <= order.used[-1]:
        raise DataError(
            f"the data set has {len(samples)} samples, but the run being resumed read sample {order.used[-1]}; "
            "pass the data that it started with"
        )


def order_keys(keys: Sequence[Any], order: GivenOrder) -> GivenOrder:
    """The order of the keys themselves."""
    of = np.asarray(keys, np.int64)
    return GivenOrder(tuple(of[epoch] for epoch in order.epochs), order.batches)


def batch_size_of(train: Any, order: GivenOrder | None, *, said: int | None) -> int | None:
    """The rows of the largest batch of a loader; None if there is no loader.

    Args:
        train: What was given.
        order: What the loader gives, if not all samples in batches of its size.
        said: The batch size that the user has said herself.

    Raises:
        SpecError: It is another one.
    """
    if not isinstance(train, torch_data.DataLoader):
        return None
    sizes = {train.batch_size or 0, 0 if order is None else order.largest} - {0}
    if said is not None and said not in sizes:
        raise SpecError(
            f"batch_size is {said}, but the loader makes batches of {max(sizes)}; the loader decides the batches: "
            "leave batch_size out, or make them equal"
        )
    return max(sizes)


def list_keys(loader: torch_data.DataLoader[Any], seed: int) -> list[Any] | None:
    """The keys of all samples of one pass, as for a validation; None for all samples of the data set."""
    sampler = loader.sampler
    usual = type(loader.batch_sampler) is torch_data.BatchSampler and not loader.drop_last
    if usual and (type(sampler) is torch_data.SequentialSampler or shuffles_freely(loader)):
        return None
    batches = list_epochs(loader, epochs=1, max_steps=None, seed=seed)[0]
    return [key for batch in batches for key in batch]


# -- read ahead -----------------------------------------------------------------------------------


def read_ahead(loader: torch_data.DataLoader[Any], asked: RowSettings) -> LoaderRows:
    """All different rows of the run.

    Raises:
        DataError: A batch is not a pair (x, y), the loader has no end, or there is no memory for what it gives.
    """
    rows, recorded = _Different(endless=asked.max_steps is None), None
    if loader.batch_sampler is not None and is_map(loader.dataset):
        keys, order, own = order_of(loader, asked)
        epochs = _collate(loader, keys, order, asked.seed)
        recorded = order_keys(keys, order) if own else None
    else:
        epochs = _iterate(loader, asked)
    order = GivenOrder.of([rows.numbers(batch) for batch in epoch] for epoch in epochs)
    return LoaderRows(pair=rows.pair(), order=order, recorded=recorded)


def _collate(
    loader: torch_data.DataLoader[Any], keys: Sequence[Any], order: GivenOrder, seed: int
) -> Iterator[Iterator[Any]]:
    """Put the samples of every batch together by the loader's collate_fn."""
    own = [*generators_in(loader.dataset), *generators_in(loader.collate_fn)]

    def batches(epoch: int) -> Iterator[Any]:
        ends = np.cumsum(order.batches[epoch])[:-1]
        for number, places in enumerate(np.split(order.epochs[epoch], ends)):
            with drawing_from(seed, epoch, f"batch {number}", own):
                batch = loader.collate_fn([loader.dataset[keys[place]] for place in places])
            yield batch

    return map(batches, range(len(order.epochs)))


def _iterate(loader: torch_data.DataLoader[Any], asked: RowSettings) -> Iterator[Iterator[Any]]:
    """Iterate the loader itself, with its workers, up to the end of the run."""
    done = 0

    def batches(epoch: int) -> Iterator[Any]:
        nonlocal done
        most = None if asked.max_steps is None else asked.max_steps - done
        with drawing_from(asked.seed, epoch, "loader"):
            for batch in islice(loader, most):
                done += 1
                yield batch

    for epoch in range(asked.epochs):
        if done == asked.max_steps:
            return
        yield batches(epoch)


class _Different:
    """The different rows of batches, each once.

    Args:
        endless: Whether the loader might have no end, and nothing says where to stop.
    """

    def __init__(self, *, endless: bool) -> None:
        self._number: dict[bytes, int] = {}
        self._x: list[Array] = []
        self._y: list[Array] = []
        self._rows = self._size_bytes = 0
        self._most_rows = MOST_ROWS if endless else None
        self._most_bytes = int(_SHARE * psutil.virtual_memory().available)

    def numbers(self, batch: Any) -> list[int]:
        """The numbers of a batch's rows."""
        x, y = read_batch(batch, "a batch of the loader")
        self._rows += len(x)
        if (self._most_rows is not None and self._rows > self._most_rows) or self._size_bytes > self._most_bytes:
            raise DataError(
                f"the loader has yielded {self._rows:,} samples ({self._size_bytes / 1e6:,.0f} MB of distinct "
                "data) and has not ended; a loader that makes its own batches is read before training starts: "
                "set max_steps if it is endless, or have a data set's __getitem__ make the samples, so that they "
                "are made only when needed"
            )
        return [self._number_row(*row) for row in zip(x, y, strict=True)]

    def pair(self) -> tuple[Array, Array]:
        """(x, y) of all of them."""
        if shape := next((x.shape for x in self._x if x.shape != self._x[0].shape), None):
            raise DataError(
                f"the loader yields samples of shape {self._x[0].shape} and of shape {shape}; all samples must "
                "have the same shape: pad them"
            )
        return np.stack(self._x), np.stack(self._y)

    def _number_row(self, x: Array, y: Array) -> int:
        content = f"{x.shape} {y.tolist() if y.dtype.kind in 'OU' else ''}".encode() + x.tobytes() + y.tobytes()
        number = self._number.setdefault(hashlib.blake2b(content, digest_size=16).digest(), len(self._x))
        if number == len(self._x):
            self._x.append(np.array(x))
            self._y.append(np.array(y))
            self._size_bytes += x.nbytes + y.nbytes
        return number
