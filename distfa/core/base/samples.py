"""Readers of samples: rows stay raw in memory, and are shaped, scaled and converted when a micro-batch is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Inputs:
    """Input rows, read as (x - mean) / std in the run's dtype; tokens are read unchanged, in int64.

    Args:
        raw: (N, d_0), any real dtype; tokens are integers.
        mean: (1,) or (d_0,), in raw units.
        std: As ``mean``, positive.
        dtype: The dtype of what is read; not for tokens.
        device: The device of what is read.
        shape: The shape of one sample as it is read, d_0 numbers; None is (d_0,).
        tokens: Whether the rows are indices of symbols; ``mean``, ``std`` and ``dtype`` do not apply then.
    """

    def __init__(
        self,
        raw: NDArray[Any],
        *,
        mean: NDArray[np.float64],
        std: NDArray[np.float64],
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        shape: tuple[int, ...] | None = None,
        tokens: bool = False,
    ) -> None:
        self._raw = raw
        self._device = device
        self._dtype = dtype
        self._shape = raw.shape[1:] if shape is None else shape
        self._tokens = tokens
        self._mean = torch.from_numpy(mean.copy()).to(device, dtype)
        self._inverse_std = torch.from_numpy(1.0 / std).to(device, dtype)

    def __len__(self) -> int:
        return len(self._raw)

    def read(self, rows: NDArray[np.int64]) -> Tensor:
        """The rows, shape (n, *shape)."""
        x = torch.from_numpy(self._raw[rows]).to(self._device)
        if self._tokens:
            return x.to(torch.int64).view(len(rows), *self._shape)
        return x.to(self._dtype).sub_(self._mean).mul_(self._inverse_std).view(len(rows), *self._shape)


class Targets:
    """Labels, int64 (N,) or (N, T), or float targets (N, C) read in the run's dtype."""

    def __init__(self, raw: NDArray[Any], *, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        self._raw = raw
        self._device = device
        self._dtype = dtype if raw.dtype.kind == "f" else torch.int64

    def __len__(self) -> int:
        return len(self._raw)

    def read(self, rows: NDArray[np.int64]) -> Tensor:
        """The rows, shape (n,), (n, T) or (n, C)."""
        return torch.from_numpy(self._raw[rows]).to(self._device).to(self._dtype)


@dataclass(frozen=True, kw_only=True)
class Split:
    """Inputs and targets of one half of a data set, row by row."""

    inputs: Inputs
    targets: Targets
