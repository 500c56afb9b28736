"""Predictions of a finished run for new samples."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distfa.core.base.order import evaluation
from distfa.data.reading import Reading
from distfa.errors import DataError
from distfa.files import save_whole
from distfa.intake.subject import raw_samples
from distfa.run.disk import run_dir as run_dirs
from distfa.run.disk.weights import require_reading
from distfa.run.saved import load_saved


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The outputs of a run's trained layers.

    Attributes:
        outputs: (n, ..., C), on the CPU: logits for classes.
        reading: What classes stand for, and how the samples were read.
        several: Whether every output is a yes or a no (``loss: bce``).
    """

    outputs: Tensor
    reading: Reading
    several: bool

    @property
    def answers(self) -> list[Any]:
        """For each sample its class, by name if it has one; lists for several labels or positions; or quantities."""
        if self.several:
            return (self.outputs > 0).int().tolist()
        if not self.reading.labels:
            return self.outputs.tolist()
        names = np.array(self.reading.class_names or range(self.outputs.shape[-1]), dtype=object)
        found: list[Any] = names[self.outputs.argmax(-1).numpy()].tolist()
        return found

    def save(self, file: Path) -> None:
        """Write the outputs as a .npy file, whole or not at all.

        Raises:
            RunDirError: It cannot be written.
        """
        content = io.BytesIO()
        np.save(content, self.outputs.numpy())
        save_whole(file, content.getvalue(), fix="free up disk space, or name another file")


def predict_run(
    run_dir: str | Path,
    samples: Any,
    *,
    model: nn.Module | None = None,
    normalised: bool | None = None,
    observer: Callable[[int, int], None] = lambda done, rows: None,
) -> Prediction:
    """The outputs of a finished run for new samples, which are read as the run read its own.

    Args:
        run_dir: The run directory.
        samples: In any form that ``Trainer.predict`` takes.
        model: The module that was trained, if it was an object in Python; it is not changed.
        normalised: Whether the samples are already normalised; None: decided by their values.
        observer: Called, as it progresses, with how many samples are done, and of how many.

    Raises:
        RunDirError: There is no run, it has no weights, or it does not say how it read its data.
        DataError: The samples do not fit.
        SpecError: The run was trained on a model from Python and none is given.
    """
    run = load_saved(run_dir)
    reading = require_reading(run.path, run_dirs.read_about(run.path))
    dataset = run.read(samples, model, targets=False, normalised=normalised)
    recipe, layers = run.recipe, run.layers(run.subject(dataset, model))
    inputs, _ = raw_samples(run.network, dataset)
    splits = inputs.readers(recipe.dtype, layers[0].device)
    read = splits[1] if len(splits[1]) else splits[0]
    found = []
    for rows in evaluation(recipe, len(read)):
        h = read.read(rows)
        for layer in layers:
            h = layer.infer(h)
        found.append(h.float().cpu())
        observer(int(rows[-1]) + 1, len(read))
    return Prediction(outputs=torch.cat(found), reading=reading, several=run.spec.loss == "bce" and not reading.labels)


def read_samples(file: Path) -> Any:
    """Samples in a file: .npy, .npz (x, test_x, or its only array) or .csv with names in its first line.

    Raises:
        DataError: The file has another form, or cannot be read.
    """
    try:
        if file.suffix == ".csv":
            with file.open(newline="", encoding="utf-8-sig") as text:
                names, *rows = [row for row in csv.reader(text) if row]
            return {name: _numbers(values) for name, *values in zip(names, *rows, strict=True)}
        content = np.load(file, allow_pickle=False) if file.suffix in (".npy", ".npz") else None
        if isinstance(content, np.lib.npyio.NpzFile):
            with content as arrays:
                name = next((key for key in ("x", "test_x") if key in arrays), None) or _only(list(arrays))
                content = arrays[name]
    except (OSError, ValueError, EOFError) as exc:
        raise DataError(f"{file}: cannot be read ({exc}); give a .npy, .npz or .csv file of samples") from exc
    if content is None:
        raise DataError(
            f"{file}: samples are read from .npy, .npz or .csv files, not from {file.suffix or 'other files'}"
        )
    return content


def _only(names: list[str]) -> str:
    if len(names) != 1:
        raise ValueError(f"it holds {', '.join(names) or 'nothing'}, but none is named x or test_x")
    return names[0]


def _numbers(values: list[str]) -> Any:
    """Numbers, if all are; else the text."""
    try:
        return np.array(values, dtype=np.float64)
    except ValueError:
        return np.array(values)
