"""The loss of a network that gives the same answer for every sample: any run must do better."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def constant_loss(loss: str, targets: NDArray[Any], outputs: int) -> float | None:
    """The smallest loss of a network that gives the same answer for every sample; None for an unknown loss.

    Cross-entropy: the entropy of the labels. Squared error: the variance of the targets, with labels as one-hot rows.
    Binary cross-entropy: the mean entropy of the targets of each output.

    Args:
        loss: Name of the loss.
        targets: (N, ...) labels or (N, ..., C) floats of the training set.
        outputs: C.
    """
    if np.issubdtype(targets.dtype, np.integer):
        p = label_shares(targets)
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
    """The entropy of a coin with probability p, for each p."""
    inside = np.clip(p, 1e-300, 1 - 1e-16)
    return np.asarray(-(p * np.log(inside) + (1 - p) * np.log1p(-inside)), dtype=np.float64)


def label_shares(labels: NDArray[Any]) -> NDArray[np.float64]:
    """How often each label occurs, as shares of 1; only labels that occur."""
    known: NDArray[np.int64] | None = getattr(labels, "counts", None)  # of labels in shards
    counts = np.unique(labels, return_counts=True)[1] if known is None else known[known > 0]
    return np.asarray(counts / counts.sum(), dtype=np.float64)
