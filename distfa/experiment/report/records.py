"""Reads a run directory for the report: run.json, spec.yaml, and metrics.jsonl, which is checked line by line."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from distfa.errors import RunDirError
from distfa.experiment import strict_json
from distfa.experiment.run_dir import METRICS, SPEC, located, read_about

Row = dict[str, Any]

_NEEDED = {
    "step": ("step", "loss"),
    "eval": ("step", "loss"),
    "ledger": (
        *("step", "boundary", "incoming", "change", "discretisation", "optimizer"),
        *("nonhomogeneity", "staleness", "renewal", "transport", "residual", "tolerance"),
    ),
    "probe": ("step", "cosine", "dominance", "min_dominance"),
    "traffic": ("step", "seconds"),
    "timeline": ("layer",),
    "finding": ("step",),
}
_OPTIONAL = ("accuracy", "potential", "transport_tolerance", "angle_degrees", "ratio", "loss_fall")
_OF_A_LAYER = ("layer", "cosine", "a")
_OF_A_SPAN = ("step", "start", "end", "waited")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as the report sees it.

    Attributes:
        path: The run's directory.
        about: run.json.
        spec: spec.yaml.
        steps: Records of kind ``step``.
        evals: Records of kind ``eval``.
        ledger: Records of kind ``ledger``.
        probes: Records of kind ``probe``.
        traffic: Records of kind ``traffic``: bytes and waiting so far.
        timelines: Records of kind ``timeline``: what each layer did in a few steps.
        findings: Records of kind ``finding``: signs of collapse, and settings that cannot go well.
        notes: What was left out in reading, one sentence each.
    """

    path: Path
    about: Mapping[str, Any]
    spec: Mapping[str, Any]
    steps: list[Row]
    evals: list[Row]
    ledger: list[Row]
    probes: list[Row]
    traffic: list[Row]
    timelines: list[Row]
    findings: list[Row]
    notes: tuple[str, ...]

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

    @property
    def layers(self) -> list[Row]:
        """How each layer was doing when that was last written, with its last error; empty for a run in one process."""
        rows = (self.result.get("facts") or {}).get("layers") or (self.traffic[-1]["layers"] if self.traffic else [])
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

    @property
    def boundaries(self) -> dict[int, list[Row]]:
        """Ledger entries by boundary."""
        found: dict[int, list[Row]] = {}
        for row in self.ledger:
            found.setdefault(row["boundary"], []).append(row)
        return dict(sorted(found.items()))


def read_run(path: Path) -> Run:
    """Read a run directory.

    Raises:
        RunDirError: It is not a run directory, or a file in it is damaged; a damaged line of metrics is named by its
            number.
    """
    path = located(path)
    about = read_about(path)
    rows, notes = _read_metrics(path / METRICS)
    if about.get("status") == "running":
        notes = [*notes, "The run is still under way: this is what it has written so far."]
    if about.get("status") == "lost":
        notes = [*notes, "The process that drove the run ended without saying so: this is what it had written by then."]
    of: dict[str, list[Row]] = {kind: [] for kind in _NEEDED}
    for row in rows:
        of[row["kind"]].append(row)
    return Run(
        path=path,
        about=about,
        spec=_read_spec(path / SPEC),
        steps=of["step"],
        evals=of["eval"],
        ledger=of["ledger"],
        probes=of["probe"],
        traffic=of["traffic"],
        timelines=sorted(of["timeline"], key=lambda row: int(row["layer"])),
        findings=of["finding"],
        notes=tuple(notes),
    )


def _read_spec(file: Path) -> Mapping[str, Any]:
    """The content of spec.yaml; empty if there is none."""
    try:
        spec = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError) as exc:
        raise RunDirError(f"cannot read {file}: {exc}") from exc
    return spec if isinstance(spec, dict) else {}


def _read_metrics(file: Path) -> tuple[list[Row], list[str]]:
    """(records, notes). A last line without newline is incomplete: it is left out, with a note."""
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as exc:
        raise RunDirError(f"cannot read {file}: {exc.strerror or exc}; a run writes it from its start") from exc
    rows, unknown = [], 0
    for number, line in enumerate(lines[:-1], start=1):
        row = _parse(line, f"{file}, line {number}")
        if row["kind"] in _NEEDED:
            _check(row, f"{file}, line {number}")
            rows.append(strict_json.numbers(row))
        else:
            unknown += 1
    notes = []
    if lines[-1]:
        notes.append(
            f"The last line of {METRICS} (line {len(lines)}) is cut short: the run was stopped while it wrote, or is "
            "still writing. It is left out."
        )
    if unknown:
        notes.append(f"{unknown:,} records of a kind this version does not know are left out.")
    return rows, notes


def _parse(line: bytes, where: str) -> Row:
    """One record."""
    try:
        row = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        shown = line[:60].decode(errors="replace")
        raise RunDirError(f"{where}: {shown!r} is not a JSON record ({exc}); fix the line or remove it") from exc
    if not isinstance(row, dict) or not isinstance(row.get("kind"), str):
        raise RunDirError(f"{where}: a record is a JSON object with a 'kind'; fix the line or remove it")
    return row


def _check(row: Row, where: str) -> None:
    """Refuse what figures cannot draw."""
    if row["kind"] == "ledger":
        row.setdefault("renewal", 0.0)  # runs of earlier versions had no renewal
    for name in _NEEDED[row["kind"]]:
        _require_number(row, name, where)
    for name in _OPTIONAL:
        if row.get(name) is not None:
            _require_number(row, name, where)
    for kind, key, names in (("probe", "layers", _OF_A_LAYER), ("timeline", "spans", _OF_A_SPAN)):
        if row["kind"] != kind:
            continue
        parts = row.get(key)
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            raise RunDirError(f"{where}: {key!r} of a {kind} is a list of objects; fix the line or remove it")
        for part in parts:
            for name in names:
                _require_number(part, name, where)


def _require_number(row: Row, name: str, where: str) -> None:
    value = row.get(name)
    if value != strict_json.number(value):
        return  # NaN or an infinity, by its name
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        kind = row.get("kind", "layer")
        raise RunDirError(
            f"{where}: {name!r} of the {kind} record is {value!r}, not a number; fix the line or remove it"
        )


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
