"""kp: Kolen-Pollack, feedback that learns what the weights learn, without seeing them."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from distfa.core.rules.base import Rule
from distfa.core.rules.cost import Cost


class KolenPollack(Rule):
    """s_l = delta_{l+1} B_{l+1}, and B takes the update of W: layer l holds h_l and receives delta_{l+1}.

    With weight decay B -> W; with ``init: aligned`` and a lossless codec B = W throughout, so that kp is
    backpropagation without weight transport. The receiver applies B, whatever the widths.

    Source: Kolen & Pollack, ICNN 1994; Akrout et al., NeurIPS 2019.
    """

    name = "kp"
    equation = "delta_{l+1} B_{l+1}, dB = dW"
    sends = "d_{l+1}"
    potential = "1/2 ||B[:,i]||^2"
    source = "Kolen & Pollack 1994"
    learns_feedback = True

    def width(self, boundary: int) -> int:
        """d_{l+1}: delta_{l+1} itself, for the layer below to learn from."""
        return self.network.sizes[boundary + 1]

    def feedback(self, boundary: int, *, sender: bool) -> Tensor | None:
        """B_{l+1} as it starts, shape (d_{l+1}, d_l), at the layer that learns."""
        return None if sender else self.hop_feedback(boundary)

    def cost(self, boundary: int) -> Cost:
        """B at the layer that learns, which also learns B."""
        whole = super().cost(boundary)
        return replace(whole, learned=whole.learner_keeps)
