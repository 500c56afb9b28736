"""Which fit of a ``Trainer`` a run was: a later one has a seed of its own, and goes on from the weights before it."""

from __future__ import annotations

from pathlib import Path

from distfa.experiment.run_dir import located, read_about


def earlier_fits(resume: str | Path, *, seed: int) -> int:
    """How many fits came before the one that made this run.

    Args:
        resume: Its run directory.
        seed: The seed of the trainer's first fit.

    Raises:
        RunDirError: There is no run.
    """
    about = read_about(located(resume))
    if (found := about.get("earlier_fits")) is not None:
        return int(found)
    continued = (about.get("network") or {}).get("continued", False)  # earlier versions say only this
    return max(1, int(about["seed"]) - seed) if continued else 0


def seed_of(seed: int, earlier: int) -> int:
    """The seed of a fit: another order and other dropout masks than the fits before it."""
    return (seed + earlier) % 2**63
