"""Where a run went back to, and where one that ended early can go on, and how."""

from __future__ import annotations

from distfa.errors import CheckpointError
from distfa.intake.from_python import how_to_go_on
from distfa.report.columns import Row
from distfa.report.records import Described
from distfa.run.disk.shelf import shelf_of

ENDED_EARLY = ("lost", "failed", "interrupted")


def last_checkpoint(run: Described) -> int | None:
    """The step of the last whole checkpoint; None if there is none that this machine can see."""
    asked = (run.spec.get("checkpoint") or {}).get("dir")
    try:
        return next(iter(shelf_of(run.path, run.about, asked=asked, began_with=asked).steps()), None)
    except CheckpointError:  # a location that this machine cannot open
        return None


def resume_command(run: Described) -> str:
    """How the user goes on with the run."""
    model, data = ((run.spec.get(part) or {}).get("name", "") for part in ("model", "data"))
    return how_to_go_on(run.path, model, data)


def recovery(entry: Row) -> str:
    """One of the run's recoveries, in words."""
    return f"attempt {entry['attempt']}: from step {entry['failed_at']} back to {entry['step']}: {entry['cause']}"
