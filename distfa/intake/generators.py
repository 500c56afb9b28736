"""Where the generators of loaders were as a fit began, so that a resumed fit draws samples in the same order."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from distfa.errors import DataError


def states(loaders: Sequence[Any]) -> list[str]:
    """The states of the generators of all loaders among what was given, as text."""
    return [base64.b64encode(generator.get_state().numpy().tobytes()).decode() for generator in _of(loaders)]


def put_back(loaders: Sequence[Any], kept: Sequence[str]) -> None:
    """Let the generators begin where they began.

    Raises:
        DataError: There are more or fewer than there were.
    """
    generators = list(_of(loaders))
    if len(generators) != len(kept):
        raise DataError(
            f"the loaders have {len(generators)} generators of their own, but those of the run being resumed had "
            f"{len(kept)}; pass the loaders as they were"
        )
    for generator, state in zip(generators, kept, strict=True):
        generator.set_state(torch.frombuffer(bytearray(base64.b64decode(state)), dtype=torch.uint8))


def _of(loaders: Sequence[Any]) -> Iterator[torch.Generator]:
    """Each generator once."""
    seen: list[torch.Generator] = []
    for loader in loaders:
        if not isinstance(loader, DataLoader):
            continue
        inner = getattr(loader.batch_sampler, "sampler", None)
        for holder in (loader, loader.sampler, loader.batch_sampler, inner):
            generator = getattr(holder, "generator", None)
            if isinstance(generator, torch.Generator) and all(generator is not other for other in seen):
                seen.append(generator)
                yield generator
