"""A run directory as the report reads it: run.json, spec.yaml, and metrics.jsonl, which is checked line by line."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from distfa.errors import RunDirError
from distfa.files import disk_errors
from distfa.report.columns import Columns, Lines, Row
from distfa.report.record import NEEDED, record
from distfa.run.disk.run_dir import METRICS, SPEC, expand_path, read_about

_NOTES = {
    "running": "The run is still going: this is what it has written so far.",
    "lost": "The process that drove the run ended without recording it: this is what it had written by then.",
}


@dataclass(frozen=True, kw_only=True)
class Described:
    """The description of a run, without its records.

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


def have_shared_workers(layers: Sequence[Row]) -> bool:
    """Whether a worker hosts several of these layers; runs of earlier versions do not say."""
    return len({row.get("worker", row["layer"]) for row in layers}) < len(layers)


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

    steps: Columns = field(default_factory=Columns)
    boundaries: dict[int, Columns] = field(default_factory=dict)
    evals: Columns = field(default_factory=Columns)
    probes: Lines = field(default_factory=lambda: Lines(lambda line: record(line, "a probe")))
    traffic: list[Row] = field(default_factory=list)
    timelines: list[Row] = field(default_factory=list)
    findings: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

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
    run = Run(**vars(describe(path)))
    _read_metrics(run)
    if note := _NOTES.get(str(run.about.get("status"))):
        run.notes.append(note)
    timelines = sorted(run.timelines, key=lambda row: int(row["layer"]))
    return replace(run, boundaries=dict(sorted(run.boundaries.items())), timelines=timelines)


def describe(path: Path) -> Described:
    """Read a run's description.

    Raises:
        RunDirError: It is not a run directory, or a file in it is damaged.
    """
    path = expand_path(path)
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


def open_records(run: Described) -> BinaryIO:
    """The records of a run, as a file of lines.

    Raises:
        RunDirError: There are none.
    """
    with disk_errors("read", run.path / METRICS, fix="a run writes it from its start"):
        return (run.path / METRICS).open("rb")


def _read_metrics(run: Run) -> None:
    """Keep all records. A last line without newline is incomplete: it is left out, with a note."""
    unknown = 0
    with open_records(run) as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                run.notes.append(
                    f"The last line of {METRICS} (line {number}) is truncated: the run was stopped while writing, "
                    "or is still writing. It is omitted."
                )
                break
            row = record(line, f"{run.path / METRICS}, line {number}")
            if row["kind"] in NEEDED:
                _keep(run, row, line)
            else:
                unknown += 1
    if unknown:
        run.notes.append(f"{unknown:,} records of a kind unknown to this version are omitted.")


def _keep(run: Run, row: Row, line: bytes) -> None:
    """Those that may be millions in a small form, and of traffic the last."""
    kind = row["kind"]
    if kind == "ledger":
        run.boundaries.setdefault(row["boundary"], Columns()).append(row)
    elif kind == "probe":
        run.probes.append(line)
    elif kind == "traffic":
        run.traffic[:] = [row]
    elif kind in ("step", "eval"):
        (run.steps if kind == "step" else run.evals).append(row)
    else:
        (run.timelines if kind == "timeline" else run.findings).append(row)
