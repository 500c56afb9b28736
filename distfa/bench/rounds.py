"""Measures configurations on a machine that is never completely idle: several rounds, in shuffled order.

If configurations of a family differ only in the number of micro-batches, a search round measures them all, and the best
one takes part in the rounds that count. Its figures there are new ones, not those it was chosen by.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Protocol

from distfa.bench.pace import Say
from distfa.errors import DistfaError
from distfa.measuring.steady_state import SteadyState


class Measured(Protocol):
    """The measurements of a run, which include its steady state."""

    @property
    def steady(self) -> SteadyState: ...


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One configuration.

    Attributes:
        family: What it is, without the number of micro-batches.
        micro_batches: M; None if it has no micro-batches.
        measure: Runs it once.
        about: Further columns for its row.
    """

    family: str
    micro_batches: int | None
    measure: Callable[[], Measured]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name in messages."""
        return self.family if self.micro_batches is None else f"{self.family}, M={self.micro_batches}"


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One measurement; ``round`` 0 is the search."""

    round: int
    configuration: Configuration
    steady: SteadyState


class Rounds:
    """Measures configurations round by round.

    Attributes:
        shots: Every measurement.
        failures: What could not be measured, in words.
    """

    def __init__(self, *, seed: int, say: Say) -> None:
        self.shots: list[Shot] = []
        self.failures: list[str] = []
        self._random = random.Random(seed)
        self._say = say

    def search(self, configurations: Sequence[Configuration]) -> list[Configuration]:
        """The best of every family, in the given order; families with several members are measured in one round."""
        counts = Counter(configuration.family for configuration in configurations)
        self.round(0, [configuration for configuration in configurations if counts[configuration.family] > 1])
        best: dict[str, Configuration] = {
            configuration.family: configuration for configuration in configurations if counts[configuration.family] == 1
        }
        for shot in sorted(self.shots, key=lambda shot: shot.steady.samples_per_second):
            best[shot.configuration.family] = shot.configuration
        return [best[family] for family in counts if family in best]

    def round(self, number: int, configurations: Sequence[Configuration]) -> None:
        """Measure every configuration once, in a new order."""
        for configuration in self._random.sample(configurations, len(configurations)):
            where = f"round {number}" if number else "search"
            try:
                shot = Shot(round=number, configuration=configuration, steady=configuration.measure().steady)
            except DistfaError as exc:
                self.failures.append(f"{configuration.name}, {where}: {exc}")
                self._say(f"{where}: {configuration.name}: failed: {exc}")
                continue
            self.shots.append(shot)
            self._say(f"{where}: {configuration.name}: {shot.steady.samples_per_second:,.0f} samples/s")

    def row(self, configuration: Configuration) -> dict[str, Any] | None:
        """Medians over the rounds that count; None if none succeeded."""
        steadies = [shot.steady for shot in self.shots if shot.round and shot.configuration is configuration]
        if not steadies:
            return None
        rates = [steady.samples_per_second for steady in steadies]
        return {
            "configuration": configuration.family,
            "micro_batches": configuration.micro_batches,
            "samples_per_second": median(rates),
            "least": min(rates),
            "most": max(rates),
            "cpu_seconds": median(steady.cpu_seconds for steady in steadies),
            "busy": median(steady.busy for steady in steadies),
            "others": median(steady.others for steady in steadies),
            **configuration.about,
        }
