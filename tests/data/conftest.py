"""Small images, and the real archives where they are present."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def images() -> np.ndarray:
    """(7, 28, 28) uint8."""
    return np.random.default_rng(0).integers(0, 256, (7, 28, 28), np.uint8)


@pytest.fixture
def labels() -> np.ndarray:
    """(7,) uint8, 0 .. 9."""
    return np.array([3, 1, 4, 1, 5, 9, 2], np.uint8)


@pytest.fixture
def shared_data() -> Path:
    """The folder of real archives beside the repository; skips where it is absent."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real archives in {folder}")
    return folder
