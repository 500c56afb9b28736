"""Private training: the Gaussian mechanism of a step, as every layer of a run knows it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Noise(Protocol):
    """Where a layer draws its noise from; whoever lacks its key can foretell none of it."""

    def normals(self, step: int, count: int, part: int = 0) -> NDArray[np.float64]:
        """Independent standard normal numbers, the same ones again for the same (step, part)."""


@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """What is done to the gradients of a step: layer l clips each sample's own to C_l, sums, and adds noise.

    As sum C_l^2 <= clip^2, a sample moves the sums of all layers together by at most ``clip``. With noise of standard
    deviation ``noise * clip`` in every layer this is one Gaussian mechanism. The loss of a step is divided by ``rows``,
    whatever the batch: so all these figures are of gradients times ``rows``.

    Attributes:
        clip: The largest norm of a sample's gradients of all layers together.
        shares: C_l of every layer, from the lowest up.
        noise: Standard deviation of the noise, as a multiple of ``clip``.
        rows: q N, the expected rows of a batch.

    Raises:
        ValueError: The shares are more than the whole.
    """

    clip: float
    shares: tuple[float, ...]
    noise: float
    rows: int

    def __post_init__(self) -> None:
        if (whole := math.hypot(*self.shares)) > self.clip * (1 + 1e-12):
            raise ValueError(f"the shares of the layers make {whole:g} together, more than clip {self.clip:g}")
