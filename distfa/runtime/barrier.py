"""One cut through the reports of all layers: what comes before it, and what comes after it.

Layers report as they go, and some are steps ahead of others. Each layer puts a mark into its reports. What it reports
after its mark is held back until every layer has reached its own mark.

Source: Carbone et al., "Lightweight asynchronous snapshots for distributed dataflows", 2015 (aligned barriers).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from distfa.core.books.joining import Entry
from distfa.core.books.records import Cut

Place = tuple[int, int]
"""(layer, replica)."""


@dataclass(frozen=True, kw_only=True)
class CutReached:
    """A layer has kept its state before ``step``.

    Attributes:
        step: The next one, counted from 0.
    """

    step: int


class Barrier:
    """Lines up the marks of all layers.

    Args:
        layers: How many there are, with all their replicas.
    """

    def __init__(self, layers: int) -> None:
        self._layers = layers
        # reports after the mark, by layer, of those that have reached it
        self._held: dict[Place, list[Entry | CutReached]] = {}

    def add(self, layer: Place, reported: Iterable[Entry | CutReached]) -> Iterator[Entry]:
        """The reports that may pass; once the last layer has reached its mark, also a cut and what was held back."""
        for entry in reported:
            if layer in self._held:
                self._held[layer].append(entry)
            elif isinstance(entry, CutReached):
                self._held[layer] = []
                if len(self._held) == self._layers:
                    yield Cut(step=entry.step)
                    held, self._held = self._held, {}
                    for other, entries in held.items():
                        yield from self.add(other, entries)
            else:
                yield entry
