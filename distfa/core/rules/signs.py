"""usf, frsf, brsf: feedback has the signs of the weights; its magnitudes are uniform, fixed, or drawn anew each step.

The layer that has W applies the feedback, so a message is as wide as that of bp.
Source: Liao, Leibo & Poggio, "How important is weight symmetry in backpropagation?", AAAI 2016.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from distfa.core.base.draw import Purpose, matrix
from distfa.core.rules.base import HopRule

_SOURCE = "Liao et al. 2016"


class FixedMagnitudeSignFeedback(HopRule):
    """s_l = delta_{l+1} (|B| * sign W_{l+1}), |B| fixed; aligned: |B| = |W(0)|."""

    name = "frsf"
    equation = "delta_{l+1} (|B| * sign W_{l+1})"
    sends = "d_l"
    potential = "<|B[:,i]|, |W[:,i]|>"
    source = _SOURCE
    takes_privacy = True

    def origin_state(self, boundary: int, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """|B|, in the shape of each weight, at the layer that has W."""
        return {name: drawn.abs_() for name, drawn in self.feedback_for_weights(boundary, weights).items()}

    def stand_in(self, state: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """|B| * sign W_{l+1}."""
        return {name: self.field(weights[name], magnitude) for name, magnitude in state.items()}

    def field(self, weight: Tensor, fixed_feedback: Tensor | None) -> Tensor:
        """|B| * sign W_{l+1}."""
        return weight.sign() if fixed_feedback is None else weight.sign().mul_(fixed_feedback)


class UniformSignFeedback(FixedMagnitudeSignFeedback):
    """s_l = delta_{l+1} (s sign W_{l+1}), s = gain sqrt(2 / (fan_in + fan_out)) everywhere."""

    name = "usf"
    equation = "delta_{l+1} (s sign W_{l+1})"
    potential = "s ||W[:,i]||_1"
    takes_privacy = True
    takes_init = False

    def origin_state(self, boundary: int, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """s in every place; for a convolution both fans count every place of the kernel."""
        return {name: torch.full(w.shape, self._scale(w), dtype=torch.float64) for name, w in weights.items()}

    def _scale(self, weight: Tensor) -> float:
        kernel = weight[0, 0].numel()
        return self.recipe.feedback.gain * float((2.0 / ((weight.shape[0] + weight.shape[1]) * kernel)) ** 0.5)


class FreshMagnitudeSignFeedback(FixedMagnitudeSignFeedback):
    """s_l = delta_{l+1} (|M_t| * sign W_{l+1}), M_t newly drawn each step, normal in the scale of W(0)."""

    name = "brsf"
    equation = "delta_{l+1} (|M_t| * sign W_{l+1})"
    potential = ""
    takes_init = False
    redraws = True
    takes_privacy = True

    def origin_state(self, boundary: int, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Nothing until a step begins."""
        return {}

    def refresh(self, boundary: int, step: int, weights: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """|M_t|, in the shape of each weight, for this step."""
        gain = self.network[boundary + 1].activation.gain * self.recipe.feedback.gain
        return {
            name: self._fresh(w, boundary, step, number).mul_(gain) for number, (name, w) in enumerate(weights.items())
        }

    def _fresh(self, weight: Tensor, boundary: int, step: int, number: int) -> Tensor:
        drawn = matrix(
            len(weight),
            weight[0].numel(),
            seed=self.recipe.seed,
            purpose=Purpose.MAGNITUDE,
            index=boundary << 32 | step,
            part=number,
            distribution="normal",
        )
        return drawn.view(weight.shape).abs_()
