"""Where the two ends of everything meet: halves of ledger entries, probes of all layers, digests of both ends.

Each layer reports its own end; the books put two ends together as they come. At the end of a good run every end has
found its other one: what is left over shows that something was lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from distfa.core.books.digest import Digest, compare
from distfa.core.books.ledger import Half, join
from distfa.core.books.probe import Alignments, LayerProbe
from distfa.core.books.records import Record

Entry = Record | Half | LayerProbe | Digest
"""A report of a layer: a record that is whole, or its own end of one."""


class Books:
    """The books of one run.

    Args:
        layers: How many layers the network has.
        lossy: Whether a codec of the run rounds, so that the two ends of a boundary may differ.
    """

    def __init__(self, layers: int, *, lossy: bool) -> None:
        self._layers, self._lossy = layers, lossy
        self._halves: dict[tuple[int, int], Half] = {}
        self._probes: dict[int, list[LayerProbe]] = {}
        self._digests: dict[tuple[int, int, int, str], Digest] = {}
        self._alignments = Alignments()

    def add(self, entry: Entry) -> Iterator[Record]:
        """The records that the entry completes."""
        if isinstance(entry, Half):
            key = (entry.step, entry.boundary)
            if (half := self._halves.pop(key, None)) is None:
                self._halves[key] = entry
            else:
                yield join([half, entry], lossy=self._lossy)
        elif isinstance(entry, LayerProbe):
            found = self._probes.setdefault(entry.step, [])
            found.append(entry)
            if len(found) == self._layers:
                yield self._alignments.add(self._probes.pop(entry.step))
        elif isinstance(entry, Digest):
            end = (entry.step, entry.micro_batch, entry.boundary, entry.direction)
            if (other := self._digests.pop(end, None)) is None:
                self._digests[end] = entry
            else:
                yield compare(other, entry)
        else:
            yield entry

    def state_dict(self) -> dict[str, float]:
        """The state that they carry from step to step when nothing is unmatched: the least dominance so far."""
        return {"least_dominance": self._alignments.least}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on where ``state_dict`` was taken."""
        self._alignments.least = state.get("least_dominance", self._alignments.least)

    def unmatched(self) -> list[str]:
        """Describe the records whose other end is missing."""
        halves = [f"the {h.end} half of boundary {h.boundary}, step {h.step}" for h in self._halves.values()]
        probes = [
            f"the probe of step {step}, missing from {self._layers - len(found)} of {self._layers} layers,"
            for step, found in self._probes.items()
        ]
        digests = [
            f"the digest of what layer {d.sender if d.end == 'sent' else d.receiver} {d.end} across boundary "
            f"{d.boundary} going {d.direction}, step {d.step}, micro-batch {d.micro_batch}"
            for d in self._digests.values()
        ]
        return halves + probes + digests
