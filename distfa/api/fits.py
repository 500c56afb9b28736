"""Which fit of a ``Trainer`` a run was: a later one has a seed of its own, and continues from the weights before it."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from distfa.errors import DataError
from distfa.run.disk.run_dir import expand_path, read_about


class Fit(NamedTuple):
    """One fit among those of a trainer.

    Attributes:
        earlier: How many came before it.
        generators: Where the generators of its loaders were as it began.
    """

    earlier: int
    generators: list[str]

    def about(self) -> dict[str, Any]:
        """The part of run.json about it."""
        return {"earlier_fits": self.earlier, "generators": self.generators}

    def seed(self, first: int) -> int:
        """Its seed, from that of the first fit: another order and other dropout masks than those before it."""
        return (first + self.earlier) % 2**63


def begin_fit(earlier: int, loaders: Sequence[Any]) -> Fit:
    """A fit that begins now."""
    return Fit(earlier, _states(loaders))


def resume_fit(run_dir: str | Path, loaders: Sequence[Any], *, seed: int) -> Fit:
    """The fit that made a run; generators of its loaders begin again where they began then.

    Args:
        run_dir: Its run directory.
        loaders: What it is given now.
        seed: The seed of the trainer's first fit.

    Raises:
        RunDirError: There is no run.
        DataError: The loaders have other generators than they had.
    """
    about = read_about(expand_path(run_dir))
    if (kept := about.get("generators")) is not None:
        _put_back(loaders, kept)
    continued = (about.get("network") or {}).get("continued", False)  # earlier versions say only this
    known = max(1, int(about["seed"]) - seed) if continued else 0
    return Fit(int(about.get("earlier_fits", known)), kept or [])


def _states(loaders: Sequence[Any]) -> list[str]:
    """The states of the generators of all loaders among what was given, as text."""
    return [base64.b64encode(generator.get_state().numpy().tobytes()).decode() for generator in _generators(loaders)]


def _put_back(loaders: Sequence[Any], kept: Sequence[str]) -> None:
    """Let the generators begin where they began.

    Raises:
        DataError: There are more or fewer than there were.
    """
    generators = list(_generators(loaders))
    if len(generators) != len(kept):
        raise DataError(
            f"the loaders have {len(generators)} generators of their own, but those of the run being resumed had "
            f"{len(kept)}; pass the loaders as they were"
        )
    for generator, state in zip(generators, kept, strict=True):
        generator.set_state(torch.frombuffer(bytearray(base64.b64decode(state)), dtype=torch.uint8))


def _generators(loaders: Sequence[Any]) -> Iterator[torch.Generator]:
    """Each generator of the loaders once."""
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
