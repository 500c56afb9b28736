"""Readers of samples: raw rows in memory, scaled and typed only when a micro-batch is read."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Inputs:
    """Input rows, read as (x - mean) / std in the run's dtype.

    Args:
        raw: (N, d_0), any real dtype.
        mean: (1,) or (d_0,), in raw units.
        std: As ``mean``, positive.
        dtype: Of what is read.
        device: Of what is read.
    """

    def __init__(
        self,
        raw: NDArray[Any],
        *,
        mean: NDArray[np.float64],
        std: NDArray[np.float64],
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        self._raw = raw
        self._device = device
        self._dtype = dtype
        self._mean = torch.from_numpy(mean.copy()).to(device, dtype)
        self._inverse_std = torch.from_numpy(1.0 / std).to(device, dtype)

    def __len__(self) -> int:
        return len(self._raw)

    def read(self, rows: NDArray[np.int64]) -> Tensor:
        """The rows, shape (n, d_0)."""
        x = torch.from_numpy(self._raw[rows]).to(self._device).to(self._dtype)
        return x.sub_(self._mean).mul_(self._inverse_std)


class Targets:
    """Labels (N,) int64, or float targets (N, C) read in the run's dtype."""

    def __init__(self, raw: NDArray[Any], *, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        self._raw = raw
        self._device = device
        self._dtype = dtype if raw.ndim == 2 else torch.int64

    def __len__(self) -> int:
        return len(self._raw)

    def read(self, rows: NDArray[np.int64]) -> Tensor:
        """The rows, shape (n,) or (n, C)."""
        return torch.from_numpy(self._raw[rows]).to(self._device).to(self._dtype)
