"""bp: backpropagation, the baseline, on the same runtime and the same wire as every other rule."""

from __future__ import annotations

from torch import Tensor

from distfa.core.rules.base import HopRule


class Backpropagation(HopRule):
    """s_l = delta_{l+1} W_{l+1}; the layer that has W multiplies by it, so no weight travels.

    Source: Rumelhart, Hinton & Williams, Nature 323, 1986.
    """

    name = "bp"
    equation = "delta_{l+1} W_{l+1}"
    sends = "d_l"
    potential = "1/2 ||W[:,i]||^2"
    source = "Rumelhart et al. 1986"
    stands_in = False
    takes_init = False
    takes_privacy = True

    def phi(self, weight: Tensor, fixed_feedback: Tensor | None) -> Tensor:
        """1/2 ||W[:,i]||^2."""
        return weight.square().sum(0) / 2
