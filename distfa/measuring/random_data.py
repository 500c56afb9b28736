"""Random samples of MNIST's shape and type, with nothing to learn in them, for measurements of speed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CLASSES = 10


def make_samples(*, rows: int, features: int, classes: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Uniform bytes, shape (rows, features), and labels, shape (rows,)."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (rows, features), dtype=np.uint8), rng.integers(0, classes, rows)


def write_samples(folder: Path, *, rows: int, features: int, seed: int) -> Path:
    """Write an .npz of such samples, without a test split; returns its path."""
    inputs, labels = make_samples(rows=rows, features=features, classes=CLASSES, seed=seed)
    path = folder / "random.npz"
    np.savez(
        path, train_x=inputs, train_y=labels, test_x=np.empty((0, features), np.uint8), test_y=np.empty(0, np.int64)
    )
    return path
