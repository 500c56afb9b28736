"""bp: backpropagation, the baseline, on the same runtime and the same wire as every other rule."""

from __future__ import annotations

from torch import Tensor

from distfa.core.rules.base import Rule


class Backpropagation(Rule):
    """s_l = delta_{l+1} W_{l+1}; the owner of W applies it, so weights stay where they are.

    Source: Rumelhart, Hinton & Williams, Nature 323, 1986.
    """

    name = "bp"
    equation = "s_l = delta_{l+1} W_{l+1}"
    source = "Rumelhart et al. 1986"

    def width(self, boundary: int) -> int:
        """d_l."""
        return self.network.sizes[boundary]

    def feedback(self, boundary: int, *, sender: bool) -> Tensor | None:
        """None: bp has no feedback matrix."""
        return None

    def emit(self, delta: Tensor, weight: Tensor, feedback: Tensor | None) -> Tensor:
        """delta_{l+1} W_{l+1}, shape (N, d_l)."""
        return delta @ weight

    def teach(self, message: Tensor, feedback: Tensor | None) -> Tensor:
        """The message is the teaching signal."""
        return message
