"""Which samples a loader of torch takes, batch by batch: what its own sampler gives, in torch's own order."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch.utils import data as torch_data

from distfa.data.drawing import drawing_from
from distfa.errors import DataError

MOST_ROWS = 10_000_000
"""Samples of an epoch beyond which it counts as endless, unless ``max_steps`` says where it ends."""

Batches = list[list[Any]]


def is_map(samples: Any) -> bool:
    """Whether it is a torch data set whose samples have numbers (or other keys)."""
    return isinstance(samples, torch_data.Dataset) and not isinstance(samples, torch_data.IterableDataset)


def tensors_of(samples: Any, *, targets: bool = True) -> tuple[Any, Any] | None:
    """(x, y) of a TensorDataset, or of a part of one: reading it draws no random numbers; y is x if not wanted.

    Raises:
        DataError: It has not two tensors.
    """
    if isinstance(samples, torch_data.Subset):
        whole = tensors_of(samples.dataset, targets=targets)
        rows = torch.as_tensor(list(samples.indices))
        return None if whole is None else (whole[0][rows], whole[1][rows])
    if not isinstance(samples, torch_data.TensorDataset):
        return None
    if not targets:
        return samples.tensors[0], samples.tensors[0]
    if len(samples.tensors) != 2:
        raise DataError(f"the TensorDataset has {len(samples.tensors)} tensors; it must have two, x and y")
    return samples.tensors[0], samples.tensors[1]


def samples_one_by_one(loader: torch_data.DataLoader[Any]) -> bool:
    """Whether its batches are samples of a data set, put together in the usual way."""
    usual = loader.collate_fn is torch_data.default_collate and loader.batch_sampler is not None
    return is_map(loader.dataset) and usual


def shuffles_freely(loader: torch_data.DataLoader[Any]) -> bool:
    """Whether its order is any permutation of all samples: ``shuffle=True`` without a generator."""
    sampler = loader.sampler
    if type(loader.batch_sampler) is not torch_data.BatchSampler or type(sampler) is not torch_data.RandomSampler:
        return False
    return not sampler.replacement and sampler.generator is None and sampler.num_samples == len(sampler.data_source)


def list_epochs(loader: torch_data.DataLoader[Any], *, epochs: int, max_steps: int | None, seed: int) -> list[Batches]:
    """The keys of every batch of every epoch, as torch's own loop would take them.

    A sampler's own generator goes on, as it does in torch; where it draws from the generators of the process, these
    are seeded from the run's seed.

    Args:
        loader: Of a data set whose samples have keys.
        epochs: Epochs of the run.
        max_steps: Where the run ends; None for no limit.
        seed: The run's.

    Raises:
        DataError: It has no end.
    """
    found: list[Batches] = []
    left = max_steps
    for epoch in range(epochs):
        if hasattr(loader.sampler, "set_epoch"):
            loader.sampler.set_epoch(epoch)
        with drawing_from(seed, epoch, "order"):
            keys = _keys(loader, first=epoch == 0)
            found.append(read_bounded(keys, left, "the sampler of the loader"))
        left = None if left is None else left - len(found[-1])
        if left == 0:
            break
    return found


def read_bounded(batches: Iterator[Sequence[Any]], most: int | None, what: str) -> list[Any]:
    """The batches of an epoch, at most ``most``.

    Raises:
        DataError: There is no limit, and they never end.
    """
    found, rows = [], 0
    for batch in islice(batches, most):
        found.append(batch)
        rows += len(batch)
        if most is None and rows > MOST_ROWS:
            raise DataError(
                f"{what} has yielded {rows:,} samples and has not ended; if it is endless, set max_steps, and it "
                "is read up to there"
            )
    return found


class _Keys(torch_data.Dataset[Any]):
    """Gives the keys themselves, so that torch's loader says which samples it would take."""

    def __getitem__(self, key: Any) -> Any:
        return _plain(key)


def _keys(loader: torch_data.DataLoader[Any], *, first: bool) -> Iterator[list[Any]]:
    """The keys of an epoch's batches; torch's loader also draws a seed for its workers, when it starts them."""
    if loader.persistent_workers and not first:
        return ([_plain(key) for key in batch] for batch in loader.batch_sampler or ())
    alike: torch_data.DataLoader[Any] = torch_data.DataLoader(
        _Keys(), batch_sampler=loader.batch_sampler, collate_fn=list, generator=loader.generator
    )
    return iter(alike)


def _plain(key: Any) -> Any:
    try:
        return operator.index(key)
    except TypeError:
        return key
