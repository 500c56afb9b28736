"""A run's figures in Prometheus' text format, from its directory: whatever its engine, and without Ray's packages."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from distfa.errors import RunDirError
from distfa.report.latest import Latest
from distfa.run.disk.run_dir import METRICS, RUN

_HELP = {
    "run_info": "A run, with its rule, engine and status.",
    "step": "The last step that was logged.",
    "loss": "Loss of the last logged batch (train) and of the last evaluation (test).",
    "accuracy": "Accuracy of the same.",
    "samples_per_second": "Training rows per second of training time.",
    "alignment": "Cosine between the update and the true gradient, at the last probe.",
    "layer_alignment": "The same, of one layer.",
    "dominance": "Dominance constant of the last probe; above 0 a small enough step lowers the loss.",
    "ledger_entries": "Ledger entries of a boundary.",
    "ledger_violations": "Ledger entries of a boundary that broke the conservation law.",
    "recoveries": "How often the run went back to a checkpoint.",
    "last_checkpoint_timestamp_seconds": "When the last checkpoint was noted; before the first, when the run began.",
    "last_record_timestamp_seconds": "When the run last wrote a record.",
    "boundary_bytes": "Bytes of messages over a boundary so far, up (activations) and down (errors).",
    "boundary_bp_bytes": "Payload that bp would have sent over a boundary so far.",
}
METRIC_NAMES = tuple(f"distfa_{name}" for name in _HELP)
_Sample = tuple[str, dict[str, Any], float]


def exposition(runs: Iterable[Latest]) -> str:
    """The last figures of runs, a family per metric."""
    found: dict[str, list[str]] = {name: [] for name in _HELP}
    for latest in runs:
        run = {"run": latest.run.about.get("run_id", latest.run.path.name), "folder": latest.run.path.name}
        for name, labels, value in _samples(latest):
            marks = ",".join(f'{key}="{_escape(str(text))}"' for key, text in (run | labels).items())
            found[name].append(
                f"distfa_{name}{{{marks}}} {float(value)!r}".replace(" nan", " NaN").replace(" inf", " +Inf")
            )
    heads = {name: [f"# HELP distfa_{name} {_HELP[name]}", f"# TYPE distfa_{name} gauge"] for name in found}
    return "".join(line + "\n" for name, lines in found.items() if lines for line in (*heads[name], *lines))


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Run directories among these, and in those that are folders of runs.

    Raises:
        RunDirError: One is neither.
    """
    found = []
    for path in paths:
        inside = [path] if (path / RUN).exists() else sorted(file.parent for file in path.glob(f"*/{RUN}"))
        if not path.is_dir():
            raise RunDirError(f"{path} is neither a run directory nor a folder of some")
        found += inside
    return found


def _samples(latest: Latest) -> Iterable[_Sample]:
    about = latest.run.about
    yield "run_info", {"rule": latest.run.rule, "engine": latest.run.engine, "status": about.get("status", "?")}, 1
    yield "recoveries", {}, len(about.get("recoveries") or ())
    if (kept := about.get("checkpoint_time") or _began(about)) is not None:
        yield "last_checkpoint_timestamp_seconds", {}, kept
    yield "last_record_timestamp_seconds", {}, (latest.run.path / METRICS).stat().st_mtime
    yield from _learning(latest)
    yield from _books(latest)


def _began(about: Any) -> float | None:
    started = (about.get("host") or {}).get("started")
    return datetime.fromisoformat(started).timestamp() if started else None


def _learning(latest: Latest) -> Iterable[_Sample]:
    """Steps, losses, accuracies, speed and alignment."""
    for kind, of in (("step", "train"), ("eval", "test")):
        row = latest.last(kind) or {}
        for key in ("loss", "accuracy"):
            if row.get(key) is not None:
                yield key, {"of": of}, row[key]
    logged = latest.last("step") or {}
    for key in ("step", "samples_per_second"):
        if logged.get(key) is not None:
            yield key, {}, logged[key]
    if probe := latest.last("probe"):
        yield "alignment", {}, probe["cosine"]
        yield "dominance", {}, probe["dominance"]
        for layer in probe["layers"]:
            yield "layer_alignment", {"layer": layer["layer"]}, layer["cosine"]


def _books(latest: Latest) -> Iterable[_Sample]:
    """The law and the bytes of every boundary."""
    for boundary in range(1, len(latest.run.sizes) - 1):
        if found := latest.entries(boundary):
            yield "ledger_entries", {"boundary": boundary}, found[0].count
            yield "ledger_violations", {"boundary": boundary}, found[0].broken
    for row in (latest.last("traffic") or {}).get("boundaries", []):
        if "shared" in row:
            continue
        for way in ("up", "down"):
            if row.get(f"{way}_message") is not None:
                yield "boundary_bytes", {"boundary": row["boundary"], "direction": way}, row[f"{way}_message"]
        if row.get("bp_payload") is not None:
            yield "boundary_bp_bytes", {"boundary": row["boundary"]}, row["bp_payload"]


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
