"""The latest records of a run, for commands that watch it as it trains.

``records.read_run`` checks and keeps every record, for the report. Here only the last record of each kind is kept, so
that a run of a million records takes seconds to look at, little memory, and no time at all to look at again. So lines
are told apart by how they begin, and only those that are shown are read as JSON.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distfa.report.columns import Row
from distfa.report.record import record
from distfa.report.records import Described, describe, open_records
from distfa.run.disk.run_dir import METRICS

_BEGINS = b'{"kind": "'
_LEDGER, _TRAFFIC, _FINDING = b"ledger", b"traffic", b"finding"
_BOUNDARY, _BROKEN = b'"boundary": ', b'"holds": false'


@dataclass(kw_only=True)
class Entries:
    """The ledger of one boundary: how many entries, how many of them broke the law, and the last one's line."""

    count: int = 0
    broken: int = 0
    line: bytes = b""


class Latest:
    """The last records of a run, read once and from then on only as far as they are new.

    Args:
        path: The run directory.

    Raises:
        RunDirError: It is not a run directory.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.run: Described
        self._begin(0)
        self.look()

    @property
    def bytes_read(self) -> int:
        """How much has been read of the run's records; it changes while the run writes."""
        return self._read

    def look(self) -> None:
        """Read what is new.

        Raises:
            RunDirError: The run directory cannot be read any more.
        """
        self.run = describe(self._path)
        attempt = self.run.about.get("attempt", 1)
        with open_records(self.run) as file:
            if attempt != self._attempt or file.seek(0, 2) < self._read:  # the run went back to a checkpoint
                self._begin(attempt)
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # the run is still writing it
                self._read += len(line)
                self._keep(line)

    def last(self, kind: str) -> Row | None:
        """The last record of a kind.

        Raises:
            RunDirError: It is damaged.
        """
        lines = self._lines.get(kind.encode())
        return self._record(lines[-1], f"the last {kind!r}") if lines else None

    def traffic(self) -> list[Row]:
        """The last two records of traffic; fewer if there are not so many.

        Raises:
            RunDirError: One is damaged.
        """
        return [self._record(line, "one of the last two 'traffic'") for line in self._lines.get(_TRAFFIC, [])]

    def findings(self) -> list[Row]:
        """Every finding.

        Raises:
            RunDirError: One is damaged.
        """
        return [self._record(line, "a 'finding'") for line in self._lines.get(_FINDING, [])]

    def entries(self, boundary: int) -> tuple[Entries, Row] | None:
        """The ledger of a boundary, and its last entry; None if it has none.

        Raises:
            RunDirError: The last entry is damaged.
        """
        found = self._entries.get(b"%d" % boundary)
        return None if found is None else (found, self._record(found.line, f"boundary {boundary}'s last 'ledger'"))

    def layers(self) -> list[Row]:
        """How each layer was doing when that was last written; see ``Described.layers_of``."""
        return self.run.layers_of(self.last("traffic"))

    def _record(self, line: bytes, which: str) -> Row:
        return record(line, f"{self.run.path / METRICS}, {which}")

    def _begin(self, attempt: int) -> None:
        self._attempt, self._read = attempt, 0
        self._lines: dict[bytes, list[bytes]] = {}  # of each kind the last two, and every finding
        self._entries: dict[bytes, Entries] = {}

    def _keep(self, line: bytes) -> None:
        kind = line[len(_BEGINS) : line.find(b'"', len(_BEGINS))]
        self._lines.setdefault(kind, []).append(line)
        if kind != _FINDING:
            del self._lines[kind][:-2]
        if kind == _LEDGER:
            at = line.find(_BOUNDARY) + len(_BOUNDARY)
            entries = self._entries.setdefault(line[at : line.find(b",", at)], Entries())
            entries.count, entries.line = entries.count + 1, line
            entries.broken += _BROKEN in line
