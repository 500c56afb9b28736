"""Measuring configurations on a machine that is never quite still: several rounds, in shuffled order.

Where a family of configurations differs in the number of micro-batches only, a search round measures them all, and
the best goes on to the rounds that count; its figures there are not those it was chosen by.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Protocol

from distfa.bench.pace import Say
from distfa.bench.steady_state import Steady
from distfa.errors import DistfaError


class Measured(Protocol):
    """What a run comes to, and with it its steady state."""

    @property
    def steady(self) -> Steady: ...


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One configuration.

    Attributes:
        family: What it is, but for the micro-batches.
        micro_batches: M; None where there is no such thing.
        measure: Runs it once.
        about: More columns for its row.
    """

    family: str
    micro_batches: int | None
    measure: Callable[[], Measured]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For messages."""
        return self.family if self.micro_batches is None else f"{self.family}, M={self.micro_batches}"


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One measurement; ``round`` 0 is the search."""

    round: int
    configuration: Configuration
    steady: Steady


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
        """The best of every family, in the order given; one round for the families that have several."""
        counts = Counter(configuration.family for configuration in configurations)
        self.round(0, [configuration for configuration in configurations if counts[configuration.family] > 1])
        best: dict[str, Configuration] = {
            configuration.family: configuration for configuration in configurations if counts[configuration.family] == 1
        }
        for shot in sorted(self.shots, key=lambda shot: shot.steady.samples_per_second):
            best[shot.configuration.family] = shot.configuration
        return [best[family] for family in counts if family in best]

    def round(self, number: int, configurations: Sequence[Configuration]) -> None:
        """Measure every configuration once, in an order of its own."""
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
        """Medians over the rounds that count; None where none succeeded."""
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
