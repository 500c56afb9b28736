"""What a layer of a private run does to its gradient: it clips each sample's share and adds noise to the sum."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distfa.core.base.private import Mechanism, Noise
from distfa.errors import NonFiniteError

_MARGIN = 1 - 2.0**-13  # of a layer's share; the rest is room for the round-off of float32 kernels


class Noising:
    """One layer's part of the mechanism.

    Args:
        mechanism: The run's.
        index: The layer, counted from 1.
        noise: What it draws from.

    Raises:
        ValueError: There is nothing to draw from.
    """

    def __init__(self, mechanism: Mechanism, index: int, noise: Noise | None) -> None:
        if noise is None:
            raise ValueError(f"layer {index} of a private run was not given its noise")
        self._index, self._noise = index, noise
        self._most = _MARGIN * mechanism.shares[index - 1] / mechanism.rows
        self._deviation = mechanism.noise * mechanism.clip / mechanism.rows

    def clip(self, delta: Tensor, norms: Tensor, *, step: int) -> Tensor:
        """delta, scaled sample by sample so that no gradient made from it is longer than the layer's share.

        Args:
            delta: (n, ...), of which gradients are linear functions.
            norms: Of each sample's gradient, (n,).
            step: For errors.

        Raises:
            NonFiniteError: A sample's gradient is NaN or infinite, so that no factor would bound it.
        """
        if not bool(torch.isfinite(norms).all()):
            raise NonFiniteError(f"layer {self._index}, step {step}: the gradient of a sample is NaN or infinite")
        factors = (self._most / norms.clamp_min(self._most)).to(delta.dtype)
        return delta * factors.view(-1, *[1] * (delta.dim() - 1))

    def add_noise(self, parameters: Sequence[Tensor], *, step: int, empty: bool) -> None:
        """Add noise to the gradient of every parameter, also of those that have none.

        Args:
            parameters: Trained ones, in order.
            step: Where the run is.
            empty: Whether the step had no sample, and ``grad`` still holds an earlier step's.
        """
        for part, parameter in enumerate(parameters):
            drawn = torch.from_numpy(self._noise.normals(step, parameter.numel(), part))
            noise = drawn.mul_(self._deviation).view(parameter.shape).to(parameter.device)
            summed = noise if empty or parameter.grad is None else noise + parameter.grad
            parameter.grad = summed.to(parameter.dtype)
