"""Samples of MNIST's shape and type with nothing to learn in them: for measurements of speed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

CLASSES = 10


def write(folder: Path, *, rows: int, features: int, seed: int) -> Path:
    """Write an .npz of uniform bytes and labels, without a test split; returns its path."""
    rng = np.random.default_rng(seed)
    path = folder / "random.npz"
    np.savez(
        path,
        train_x=rng.integers(0, 256, (rows, features), dtype=np.uint8),
        train_y=rng.integers(0, CLASSES, rows),
        test_x=np.empty((0, features), np.uint8),
        test_y=np.empty(0, np.int64),
    )
    return path
