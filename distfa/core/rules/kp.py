"""kp: Kolen-Pollack, feedback that learns what the weights learn, without seeing them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from distfa.core.base.model import Shape
from distfa.core.rules.base import Back, HopRule


class KolenPollack(HopRule):
    """s_l = delta_{l+1} B_{l+1}, and B takes the update of W.

    Where layer l+1 is one Linear in a network drawn from the seed, layer l keeps B: it holds h_l and receives
    delta_{l+1}, which is all that the update needs, and no weight ever travels. In other layers one B is kept beside
    every W, and takes the same gradient.

    With weight decay B -> W; with ``init: aligned`` and a lossless codec B = W throughout, so that kp is
    backpropagation without weight transport.

    Source: Kolen & Pollack, ICNN 1994; Akrout et al., NeurIPS 2019.
    """

    name = "kp"
    equation = "delta_{l+1} B_{l+1}, dB = dW"
    sends = "d_{l+1}"
    potential = "1/2 ||B[:,i]||^2"
    source = "Kolen & Pollack 1994"
    takes_clip_norm = False

    def shape(self, boundary: int) -> Shape:
        """d_{l+1}: delta_{l+1} itself, for the layer below to learn from; the shape of h_l where B is kept beside W."""
        return self.network.shapes[boundary + 1 if self.network.seeded else boundary]

    def origin_state(self, boundary: int, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The initial B, where it is kept beside W."""
        return {} if self.network.seeded else self.feedback_for_weights(boundary, weights)

    def emit(self, delta: Tensor, state: Mapping[str, Tensor], weights: Mapping[str, Tensor], back: Back) -> Tensor:
        """delta_{l+1}, or delta_{l+1} B."""
        return back(state) if state else delta

    def teacher(self, boundary: int) -> Tensor | None:
        """The initial B_{l+1}, shape (d_{l+1}, d_l), where the layer below keeps it."""
        return self.hop_feedback(boundary) if self.network.seeded else None

    def learns_at_origin(self, boundary: int) -> bool:
        """True where B is kept beside W."""
        return not self.network.seeded

    def learns_at_learner(self, boundary: int) -> bool:
        """True where the layer below keeps B."""
        return self.network.seeded

    def potential_layer(self, boundary: int) -> int:
        """The layer that keeps B."""
        return boundary if self.network.seeded else boundary + 1
