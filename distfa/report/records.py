"""A run directory as the report reads it: run.json, spec.yaml, and metrics.jsonl, which is checked line by line."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from distfa.errors import RunDirError
from distfa.report.columns import Columns, Lines
from distfa.report.record import NEEDED, Row, record
from distfa.run.disk.run_dir import METRICS, SPEC, located, read_about


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a run says of itself beside its records.

    Attributes:
        path: The run's directory.
        about: run.json.
        spec: spec.yaml.
    """

    path: Path
    about: Mapping[str, Any]
    spec: Mapping[str, Any]

    @property
    def result(self) -> Mapping[str, Any]:
        """The result; empty for a run that did not finish."""
        return self.about.get("result") or {}

    @property
    def rule(self) -> str:
        """The feedback rule."""
        return str(self.result.get("rule") or self.spec.get("rule") or "unknown rule")

    @property
    def init(self) -> str:
        """The initialisation."""
        return str(self.result.get("start") or self.result.get("init") or self.spec.get("init") or "unknown init")

    @property
    def engine(self) -> str:
        """The engine."""
        return str(self.result.get("engine") or self.spec.get("engine") or "unknown")

    def layers_of(self, traffic: Row | None) -> list[Row]:
        """How each layer was doing when that was last written, with its last error; empty for a run in one process.

        Args:
            traffic: The last record of that kind.
        """
        rows = (self.result.get("facts") or {}).get("layers") or (traffic["layers"] if traffic else [])
        errors = self.about.get("last_errors") or {}
        return [row | {"last_error": errors.get(str(row["layer"]))} for row in rows]

    @property
    def sizes(self) -> list[int]:
        """(d_0, ..., d_L): numbers in a sample of the input and of every layer's output; empty if not known."""
        network = self.about.get("network")
        if not isinstance(network, dict) or not network.get("layers"):
            return []
        layers = network["layers"]
        return [math.prod(shape) for shape in (layers[0]["input_shape"], *(layer["output_shape"] for layer in layers))]


@dataclass(frozen=True, kw_only=True)
class Run(Described):
    """A run as the report sees it.

    Attributes:
        steps: Records of kind ``step``.
        boundaries: Records of kind ``ledger``, by boundary.
        evals: Records of kind ``eval``.
        probes: Records of kind ``probe``.
        traffic: The last record of kind ``traffic``: bytes and waiting so far; empty if there is none.
        timelines: Records of kind ``timeline``: what each layer did in a few steps.
        findings: Records of kind ``finding``: signs of collapse, and settings that cannot go well.
        notes: What was left out in reading, one sentence each.
    """

    steps: Columns
    boundaries: Mapping[int, Columns]
    evals: Columns
    probes: Lines
    traffic: list[Row]
    timelines: list[Row]
    findings: list[Row]
    notes: tuple[str, ...]

    @property
    def layers(self) -> list[Row]:
        """See ``layers_of``."""
        return self.layers_of(self.traffic[-1] if self.traffic else None)

    @property
    def entries(self) -> int:
        """How many ledger entries there are."""
        return sum(map(len, self.boundaries.values()))

    def of_entries(self, key: str) -> Iterator[Any]:
        """One figure of every ledger entry; None where an entry has none."""
        return chain.from_iterable(rows.of(key) for rows in self.boundaries.values())


def read_run(path: Path) -> Run:
    """Read a run directory.

    Raises:
        RunDirError: It is not a run directory, or a file in it is damaged; a damaged line of metrics is named by its
            number.
    """
    run = describe(path)
    about = run.about
    kept = _Kept()
    notes = _read_metrics(run, kept)
    if about.get("status") == "running":
        notes = [*notes, "The run is still under way: this is what it has written so far."]
    if about.get("status") == "lost":
        notes = [*notes, "The process that drove the run ended without saying so: this is what it had written by then."]
    return Run(
        **vars(run),
        steps=kept.steps,
        boundaries=dict(sorted(kept.boundaries.items())),
        evals=kept.evals,
        probes=kept.probes,
        traffic=kept.of["traffic"],
        timelines=sorted(kept.of["timeline"], key=lambda row: int(row["layer"])),
        findings=kept.of["finding"],
        notes=tuple(notes),
    )


class _Kept:
    """The records of a run: those that may be millions in a small form, and of traffic the last."""

    def __init__(self) -> None:
        self.steps, self.evals = Columns(), Columns()
        self.boundaries: dict[int, Columns] = {}
        self.probes = Lines(lambda line: record(line, "a probe"))
        self.of: dict[str, list[Row]] = {kind: [] for kind in NEEDED}

    def add(self, row: Row, line: bytes) -> None:
        kind = row["kind"]
        if kind in ("step", "eval"):
            (self.steps if kind == "step" else self.evals).append(row)
        elif kind == "ledger":
            self.boundaries.setdefault(row["boundary"], Columns()).append(row)
        elif kind == "probe":
            self.probes.append(line)
        elif kind == "traffic":
            self.of[kind] = [row]
        else:
            self.of[kind].append(row)


def describe(path: Path) -> Described:
    """What a run says of itself.

    Raises:
        RunDirError: It is not a run directory, or a file in it is damaged.
    """
    path = located(path)
    return Described(path=path, about=read_about(path), spec=_read_spec(path / SPEC))


def _read_spec(file: Path) -> Mapping[str, Any]:
    """The content of spec.yaml; empty if there is none."""
    try:
        spec = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError) as exc:
        raise RunDirError(f"cannot read {file}: {exc}") from exc
    return spec if isinstance(spec, dict) else {}


def opened(run: Described) -> BinaryIO:
    """The records of a run, as a file of lines.

    Raises:
        RunDirError: There are none.
    """
    try:
        return (run.path / METRICS).open("rb")
    except OSError as exc:
        said = exc.strerror or exc
        raise RunDirError(f"cannot read {run.path / METRICS}: {said}; a run writes it from its start") from exc


def _read_metrics(run: Described, kept: _Kept) -> list[str]:
    """Keep all records, and return notes. A last line without newline is incomplete: it is left out, with a note."""
    notes, unknown, file_name = list[str](), 0, str(run.path / METRICS)
    with opened(run) as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                notes.append(
                    f"The last line of {METRICS} (line {number}) is cut short: the run was stopped while it wrote, or "
                    "is still writing. It is left out."
                )
                break
            row = record(line, f"{file_name}, line {number}")
            if row["kind"] in NEEDED:
                kept.add(row, line)
            else:
                unknown += 1
    if unknown:
        notes.append(f"{unknown:,} records of a kind this version does not know are left out.")
    return notes
