"""Which fit of a ``Trainer`` a run was: a later one has a seed of its own, and goes on from the weights before it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from distfa.intake import generators
from distfa.run.disk.run_dir import located, read_about


class Fit(NamedTuple):
    """One fit among those of a trainer.

    Attributes:
        earlier: How many came before it.
        generators: Where the generators of its loaders were as it began.
    """

    earlier: int
    generators: list[str]

    def about(self) -> dict[str, Any]:
        """What run.json says of it."""
        return {"earlier_fits": self.earlier, "generators": self.generators}

    def seed(self, first: int) -> int:
        """Its seed, from that of the first fit: another order and other dropout masks than those before it."""
        return (first + self.earlier) % 2**63


def begun(earlier: int, loaders: Sequence[Any]) -> Fit:
    """A fit that begins now."""
    return Fit(earlier, generators.states(loaders))


def resumed(run_dir: str | Path, loaders: Sequence[Any], *, seed: int) -> Fit:
    """The fit that made a run; generators of its loaders begin again where they began then.

    Args:
        run_dir: Its run directory.
        loaders: What it is given now.
        seed: The seed of the trainer's first fit.

    Raises:
        RunDirError: There is no run.
        DataError: The loaders have other generators than they had.
    """
    about = read_about(located(run_dir))
    if (kept := about.get("generators")) is not None:
        generators.put_back(loaders, kept)
    continued = (about.get("network") or {}).get("continued", False)  # earlier versions say only this
    known = max(1, int(about["seed"]) - seed) if continued else 0
    return Fit(int(about.get("earlier_fits", known)), kept or [])
