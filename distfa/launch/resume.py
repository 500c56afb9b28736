"""The same command typed again: it continues the run that it left, and no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from distfa.errors import UsageError
from distfa.run.disk import run_dir as run_dirs
from distfa.settings import RunSpec, flat, load_spec

_HERE = ("run_dir", "launch", "ray.address")
"""The keys that may differ without being carried over: each attempt has its own."""


def find_changes(folder: Path, spec: RunSpec) -> list[str]:
    """The changes for a resumed run, as ``--set`` takes them: places and addresses of this attempt.

    Args:
        folder: The directory of the run.
        spec: What is asked for now.

    Raises:
        UsageError: The run has finished, or it is another one.
    """
    another = "choose another directory with --set run_dir=..., or remove this one"
    if run_dirs.read_about(folder)["status"] == "finished":
        raise UsageError(f"the run in {folder} has finished; {another}")
    before = load_spec(folder / run_dirs.SPEC)
    if differ := _find_differences(before.deciding(), spec.deciding()):
        key, (was, now) = next(iter(differ.items()))
        more = f" (and {len(differ) - 1} more)" if len(differ) > 1 else ""
        raise UsageError(f"{folder} holds a run with {key} {was!r}, but {now!r} is requested{more}; {another}")
    found = _find_differences(before.model_dump(mode="json"), spec.model_dump(mode="json"))
    return [f"{key}={_inline(now)}" for key, (_, now) in found.items() if not key.startswith(_HERE)]


def _find_differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, with both values."""
    ours, theirs = flat(one), flat(other)
    keys = dict.fromkeys((*ours, *theirs))
    return {key: (ours.get(key), theirs.get(key)) for key in keys if ours.get(key) != theirs.get(key)}


def _inline(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...")
