"""Weights in files: in a run directory, or in a file alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor

from distfa.data.reading import Reading
from distfa.errors import DataError, RunDirError
from distfa.files import save_whole
from distfa.run.disk.run_dir import METADATA, WEIGHTS, expand_path, read_about
from distfa.run.disk.tensor_files import metadata, tensors_from_bytes, tensors_to_bytes
from distfa.text import strict_json


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
        return tensors_from_bytes(file.read_bytes())
    except (OSError, safetensors.SafetensorError) as exc:
        raise RunDirError(f"cannot read {file}: {exc}") from exc


def save_weights(file: Path, weights: Mapping[str, Tensor], reading: Reading | None = None) -> Path:
    """Write weights under their keys, and how their data were read, whole or not at all.

    Raises:
        RunDirError: They cannot be written.
    """
    file = expand_path(file)
    said = None if reading is None else {METADATA: strict_json.dumps(reading.as_dict())}
    save_whole(file, tensors_to_bytes(weights, said))
    return file


def load_reading(path: Path) -> Reading | None:
    """How the data of a run, or of a file of weights, were read; None if it is not said.

    Raises:
        RunDirError: There is no such run or file.
    """
    path = expand_path(path)
    if path.is_dir():
        return reading_of(read_about(path))
    try:
        said = metadata(path.read_bytes()).get(METADATA)
    except (OSError, ValueError) as exc:
        raise RunDirError(f"cannot read the record of its data in {path}: {exc}") from exc
    return reading_of({"inputs": json.loads(said)}) if said else None


def reading_of(about: Mapping[str, Any]) -> Reading | None:
    """How the data of a run were read, from its run.json; None if it is not said.

    Raises:
        RunDirError: It is damaged.
    """
    said = about.get("inputs")
    try:
        return Reading.of_dict(said) if said else None
    except (AttributeError, TypeError, ValueError, DataError) as exc:
        raise RunDirError(f"the run's record of its data is damaged ({exc}); use the file that the run wrote") from exc


def require_reading(path: Path, about: Mapping[str, Any]) -> Reading:
    """The same, where nothing can be done without it.

    Raises:
        RunDirError: It is not said.
    """
    found = reading_of(about)
    if found is None:
        raise RunDirError(f"{path} does not say how inputs are normalised; it is from an earlier version of distfa")
    return found


def load_weights(path: Path) -> dict[str, Tensor]:
    """The weights of a file, or of a run directory.

    Raises:
        RunDirError: There are none, or the file is damaged.
    """
    path = expand_path(path)
    if path.is_dir():
        return read_weights(path)
    try:
        return tensors_from_bytes(path.read_bytes())
    except (OSError, safetensors.SafetensorError) as exc:
        raise RunDirError(f"cannot read weights from {path}: {exc}") from exc
