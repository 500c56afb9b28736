"""What the process that drives a run knows at a cut, as JSON can hold it, and whether a run can go on with it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from distfa.core.model import Network
from distfa.data import Dataset
from distfa.errors import CheckpointError
from distfa.experiment.collapse import Seen
from distfa.experiment.result import Tally
from distfa.experiment.spec import RunSpec, flat
from distfa.version import __version__

_TALLY, _SEEN = TypeAdapter(Tally), TypeAdapter(Seen)


def identity(spec: RunSpec, network: Network, dataset: Dataset) -> dict[str, Any]:
    """Everything that decides the trained weights, by value or by digest."""
    return {
        "distfa": __version__,
        "spec": spec.deciding(),
        "network": hashlib.sha256(repr(network).encode()).hexdigest(),
        "data": dataset.digest,
    }


def progress(tally: Tally, seen: Seen, books: Mapping[str, float], metrics_bytes: int) -> dict[str, Any]:
    """How far the run has come."""
    return {
        "tally": _TALLY.dump_python(tally),
        "seen": _SEEN.dump_python(seen),
        "books": dict(books),
        "metrics_bytes": metrics_bytes,
    }


def tally_of(notes: Mapping[str, Any]) -> Tally:
    """A copy of the figures so far."""
    return _TALLY.validate_python(notes["tally"])


def seen_of(notes: Mapping[str, Any]) -> Seen:
    """A copy of what was kept to find a collapse."""
    return _SEEN.validate_python(notes["seen"])


def require_same(mine: Mapping[str, Any], theirs: Mapping[str, Any], where: Path) -> None:
    """Refuse a checkpoint that a run cannot go on from.

    Args:
        mine: ``identity`` of the run.
        theirs: ``identity`` in the checkpoint.
        where: Run directory of the checkpoint.

    Raises:
        CheckpointError: They differ; the message says in what.
    """
    now, then = flat(mine["spec"]), flat(theirs["spec"])
    if other := sorted(key for key in now.keys() | then.keys() if now.get(key) != then.get(key)):
        key = other[0]
        raise CheckpointError(
            f"{key} is {now.get(key)!r} now and was {then.get(key)!r} when {where} was trained; it decides the "
            "weights, so the run cannot go on with it: leave it as it was, or start a new run"
        )
    if theirs["network"] != mine["network"]:
        raise CheckpointError(f"the model is not the one that {where} trained; give the same, or start a new run")
    if theirs["data"] != mine["data"]:
        raise CheckpointError(
            f"the data are not those of the run in {where} (their digests differ); give the same, or start a new run"
        )
