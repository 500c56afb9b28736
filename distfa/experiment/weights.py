"""Weights in files: in a run directory, or in a file alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors
from torch import Tensor

from distfa.errors import RunDirError
from distfa.experiment.claim import cannot
from distfa.experiment.run_dir import WEIGHTS, located, read_about
from distfa.experiment.tensor_files import from_bytes, to_bytes
from distfa.files import write_whole


def read_weights(path: Path) -> dict[str, Tensor]:
    """The saved weights.

    Raises:
        RunDirError: There are none, or the file is damaged.
    """
    file = path / WEIGHTS
    if not file.exists():
        status = read_about(path).get("status")
        raise RunDirError(f"{path} has no {WEIGHTS}: the run's status is {status!r}; only a finished run has weights")
    try:
        return from_bytes(file.read_bytes())
    except (OSError, safetensors.SafetensorError) as exc:
        raise RunDirError(f"cannot read {file}: {exc}") from exc


def save_weights(file: Path, weights: Mapping[str, Tensor]) -> Path:
    """Write weights under their keys, whole or not at all.

    Raises:
        RunDirError: They cannot be written.
    """
    file = located(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, to_bytes(weights))
    except OSError as exc:
        raise cannot("write", file, exc) from exc
    return file


def load_weights(path: Path) -> dict[str, Tensor]:
    """The weights of a file, or of a run directory.

    Raises:
        RunDirError: There are none, or the file is damaged.
    """
    path = located(path)
    if path.is_dir():
        return read_weights(path)
    try:
        return from_bytes(path.read_bytes())
    except (OSError, safetensors.SafetensorError) as exc:
        raise RunDirError(f"cannot read weights from {path}: {exc}") from exc
