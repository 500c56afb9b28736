"""The outcome of a benchmark: rows of figures, and the machine and load under which they were measured."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from distfa.errors import BenchError
from distfa.files import save_whole


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The figures of one benchmark.

    Attributes:
        name: Name of the benchmark: ``speed``, ``comm``, ``scale``, ``rules``.
        settings: What was asked for.
        columns: Keys of the rows with their headings and units, in the order in which they are shown.
        rows: One per configuration; a value is None if it was not measured.
        notes: What a reader must know: what could not be done here, and why.
        machine: The machine it ran on.
        raw: Every single measurement behind the rows, if they are medians.
    """

    name: str
    settings: dict[str, Any]
    columns: dict[str, str]
    rows: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=lambda: _describe())
    raw: list[dict[str, Any]] = field(default_factory=list)

    @property
    def shown(self) -> dict[str, str]:
        """The columns that have any measurement."""
        return {key: head for key, head in self.columns.items() if any(row.get(key) is not None for row in self.rows)}

    def text(self) -> str:
        """All of it as JSON."""
        return json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all.

        Raises:
            BenchError: It cannot be written.
        """
        save_whole(path, self.text(), BenchError, "choose another location")

    @staticmethod
    def load(path: Path) -> Outcome:
        """Read what ``save`` wrote.

        Raises:
            BenchError: The file does not exist, or is not such a file.
        """
        try:
            return Outcome(**json.loads(path.read_text()))
        except OSError as exc:
            raise BenchError(f"cannot read {path}: {exc.strerror}") from exc
        except (ValueError, TypeError) as exc:
            raise BenchError(f"{path} is not a result of distfa bench: {exc}") from exc


def _describe() -> dict[str, Any]:
    from distfa.measuring.machine import describe_machine  # this loads torch, which a page of help does not need

    return describe_machine()
