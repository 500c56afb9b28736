"""What a network comes to that gives the same answer for every sample: the bar that any run must pass."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def constant_loss(loss: str, targets: NDArray[Any], outputs: int) -> float | None:
    """The least loss of a network that gives the same answer for every sample; None for a loss not known here.

    Cross-entropy: the entropy of the labels. Squared error: the variance of the targets, labels being one-hot rows.
    Binary cross-entropy: the mean entropy of the outputs' targets.

    Args:
        loss: Its name.
        targets: (N, ...) labels or (N, ..., C) floats of the training set.
        outputs: C.
    """
    if np.issubdtype(targets.dtype, np.integer):
        p = shares(targets)
        if loss == "cross_entropy":
            return float(-(p * np.log(p)).sum())
        if loss == "mse":
            return float((p * (1 - p)).sum() / outputs)
        if loss == "bce":
            return float(_entropies(p).sum() / outputs)
    elif loss == "mse":
        return float(targets.astype(np.float64).var(axis=0).mean())
    elif loss == "bce":
        return float(_entropies(targets.astype(np.float64).mean(axis=0)).mean())
    return None


def _entropies(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of a coin for each p."""
    inside = np.clip(p, 1e-300, 1 - 1e-16)
    return np.asarray(-(p * np.log(inside) + (1 - p) * np.log1p(-inside)), dtype=np.float64)


def shares(labels: NDArray[Any]) -> NDArray[np.float64]:
    """How often every label that occurs does, as shares of 1."""
    counts = np.unique(labels, return_counts=True)[1]
    return np.asarray(counts / counts.sum(), dtype=np.float64)
