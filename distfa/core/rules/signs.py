"""usf, frsf, brsf: feedback by the signs of the weights, magnitudes uniform, fixed, or fresh each step.

The owner of W applies the feedback, so a message is as wide as bp's.
Source: Liao, Leibo & Poggio, "How important is weight symmetry in backpropagation?", AAAI 2016.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from distfa.core.draw import Purpose, matrix
from distfa.core.rules.base import Rule
from distfa.core.rules.cost import Cost

_SOURCE = "Liao et al. 2016"


class FixedMagnitudeSignFeedback(Rule):
    """s_l = delta_{l+1} (|B| * sign W_{l+1}), |B| fixed; aligned: |B| = |W(0)|."""

    name = "frsf"
    equation = "delta_{l+1} (|B| * sign W_{l+1})"
    sends = "d_l"
    potential = "<|B[:,i]|, |W[:,i]|>"
    source = _SOURCE

    def width(self, boundary: int) -> int:
        """d_l."""
        return self.network.sizes[boundary]

    def feedback(self, boundary: int, *, sender: bool) -> Tensor | None:
        """|B|, shape (d_{l+1}, d_l), at the owner of W."""
        return self.fixed(boundary) if sender else None

    def fixed(self, boundary: int) -> Tensor | None:
        """|B|."""
        return self.hop_feedback(boundary).abs_()

    def field(self, weight: Tensor, fixed: Tensor | None) -> Tensor:
        """|B| * sign W_{l+1}."""
        return weight.sign() if fixed is None else weight.sign().mul_(fixed)

    def emit(self, delta: Tensor, weight: Tensor, feedback: Tensor | None) -> Tensor:
        """delta_{l+1} (|B| * sign W_{l+1})."""
        return delta @ self.field(weight, feedback)

    def cost(self, boundary: int) -> Cost:
        """|B| at the owner of W, which forms |B| * sign W and multiplies."""
        below, above = self.network.sizes[boundary : boundary + 2]
        numbers = below * above
        return Cost(origin_multiplies=True, formed=numbers, origin_keeps=numbers, books_keep=numbers)


class UniformSignFeedback(FixedMagnitudeSignFeedback):
    """s_l = delta_{l+1} (s sign W_{l+1}), s = gain sqrt(2 / (fan_in + fan_out)) everywhere."""

    name = "usf"
    equation = "delta_{l+1} (s sign W_{l+1})"
    potential = "s ||W[:,i]||_1"
    takes_init = False

    def fixed(self, boundary: int) -> Tensor | None:
        """s in every place."""
        below, above = self.network.sizes[boundary : boundary + 2]
        return torch.full((above, below), self.recipe.gain * (2.0 / (below + above)) ** 0.5, dtype=torch.float64)


class FreshMagnitudeSignFeedback(FixedMagnitudeSignFeedback):
    """s_l = delta_{l+1} (|M_t| * sign W_{l+1}), M_t drawn anew each step, normal in the scale of W(0)."""

    name = "brsf"
    equation = "delta_{l+1} (|M_t| * sign W_{l+1})"
    potential = ""
    takes_init = False

    def feedback(self, boundary: int, *, sender: bool) -> Tensor | None:
        """None until a step begins."""
        return None

    def refresh(self, boundary: int, step: int) -> Tensor | None:
        """|M_t|, shape (d_{l+1}, d_l), for this step."""
        above = self.network[boundary + 1]
        drawn = matrix(
            above.outputs,
            above.inputs,
            seed=self.recipe.seed,
            purpose=Purpose.MAGNITUDE,
            index=boundary << 32 | step,
            distribution="normal",
        )
        return drawn.abs_().mul_(above.activation.gain * self.recipe.gain)

    def cost(self, boundary: int) -> Cost:
        """As with fixed magnitudes, and all of them drawn in each step."""
        whole = super().cost(boundary)
        return replace(whole, drawn=whole.origin_keeps)
