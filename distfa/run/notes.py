"""The notes that a run's driver takes at a cut, as JSON can hold them, and whether a run can continue with them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from distfa.core.base.model import Network
from distfa.data import WINDOW, Dataset
from distfa.errors import CheckpointError
from distfa.own.parts import digests
from distfa.run.collapse import WatcherState
from distfa.run.disk.run_dir import RunDir, read_network
from distfa.run.result import Tally
from distfa.runtime.job import Job
from distfa.sections.traced import ALL
from distfa.settings import RunSpec, flat
from distfa.settings.private import PrivacyConfig
from distfa.version import __version__

_TALLY, _SEEN = TypeAdapter(Tally), TypeAdapter(WatcherState)
_NEWER: dict[str, Any] = {
    "model.layers": ALL,
    "threads": 1,
    "ray.replicas": 1,
    "optimizer.fold": False,
    "metrics": [],
    "data.mean": None,
    "data.std": None,
    "data.window": WINDOW,
    **{f"privacy.{field.name}": field.default for field in fields(PrivacyConfig) if field.name != "key"},
}
_WHERE_DATA_ARE = ("data.name", "data.dir", "data.limit", "data.hub", "data.label")


def identify_run(spec: RunSpec, job: Job, dataset: Dataset) -> dict[str, Any]:
    """Everything that decides the trained weights, by value or by digest."""
    return {
        "distfa": __version__,
        "spec": spec.deciding(),
        "network": _digest(job.recipe.network),
        "data": dataset.digest,
        "own": digests(job.own_parts()),
    }


def began_with(run_dir: RunDir) -> dict[str, Any]:
    """``identify_run`` of a run as its directory tells it, for a run without a checkpoint."""
    about = run_dir.about
    return {
        "spec": run_dir.read_spec().deciding(),
        "network": _digest(read_network(about)),
        "data": about.get("data_digest"),
        "own": about.get("own", {}),
    }


def require_same_start(start: str | None, run_dir: RunDir) -> None:
    """Refuse to begin a run anew from other weights than it began with.

    Args:
        start: ``Subject.start_digest`` as it is now.
        run_dir: The run's directory.

    Raises:
        CheckpointError: They are others.
    """
    then = run_dir.about.get("start")
    if then is not None and start != then:
        raise CheckpointError(
            f"the run in {run_dir.path} has no checkpoint yet, and it started from different weights than the "
            "model has now; restore those weights (after an interrupted fit: trainer.reset()), or start a new run"
        )


def note_progress(
    tally: Tally, seen: WatcherState, books: Mapping[str, float], metrics_bytes: int, stop: str | None
) -> dict[str, Any]:
    """How far the run has come, and why it ends here, if a callback has said so."""
    return {
        "tally": _TALLY.dump_python(tally),
        "seen": _SEEN.dump_python(seen),
        "books": dict(books),
        "metrics_bytes": metrics_bytes,
        "stop": stop,
    }


def copies_of(noted: Mapping[str, Any]) -> tuple[Tally, WatcherState]:
    """The figures so far, and what was kept to find a collapse."""
    return _TALLY.validate_python(noted["tally"]), _SEEN.validate_python(noted["seen"])


def require_same_run(mine: Mapping[str, Any], theirs: Mapping[str, Any], where: Path) -> None:
    """Refuse a checkpoint that a run cannot continue from.

    Args:
        mine: ``identify_run`` of the run.
        theirs: what ``identify_run`` said in the checkpoint.
        where: Run directory of the checkpoint.

    Raises:
        CheckpointError: They differ; the message says in what.
    """
    now, then = deciding(mine), deciding(theirs)
    if other := sorted(key for key in now.keys() | then.keys() if now.get(key) != then.get(key)):
        key = other[0]
        raise CheckpointError(
            f"{key} is {now.get(key)!r} now but was {then.get(key)!r} when {where} was trained; it affects the "
            "weights, so the run cannot be resumed with it: leave it as it was, or start a new run"
        )
    own, was = mine.get("own", {}), theirs.get("own", {})
    if changed := sorted(key for key in own if own[key] != was.get(key)):
        raise CheckpointError(
            f"the code or the settings of {changed[0]} have changed since {where} was trained (digest "
            f"{own[changed[0]]} now, {was.get(changed[0])} then), so the run cannot be resumed with it: restore it, or "
            "start a new run"
        )
    if theirs["network"] != mine["network"]:
        raise CheckpointError(f"the model is not the one that {where} trained; use the same one, or start a new run")
    if theirs["data"] != mine["data"]:
        raise CheckpointError(
            f"the data are not those of the run in {where} (their digests differ); use the same data (a loader's "
            "generator must start as it did then), or start a new run"
        )


def is_same_run(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Whether ``require_same_run`` accepts them."""
    try:
        require_same_run(mine, theirs, Path())
    except CheckpointError:
        return False
    return True


def _digest(network: Network) -> str:
    return hashlib.sha256(repr(network).encode()).hexdigest()


def deciding(noted: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of the spec that decide, as ``identify_run`` found them.

    Not where the data are, which their digest says better.

    Runs of earlier versions lack keys that are newer, whose value was always the same.
    """
    found = _NEWER | flat(noted["spec"])
    return {key: value for key, value in found.items() if key not in _WHERE_DATA_ARE}
