"""fa: feedback alignment, hop by hop through a fixed matrix, whichever end makes the message narrower."""

from __future__ import annotations

from torch import Tensor

from distfa.core.rules.base import Rule


class FeedbackAlignment(Rule):
    """s_l = delta_{l+1} B_{l+1}, B fixed.

    B is applied by the sender where layer l is narrower than layer l+1, else by the receiver: the
    product is the same, the message is min(d_l, d_{l+1}) columns.

    Source: Lillicrap, Cownden, Tweed & Akerman, Nature Communications 7, 2016.
    """

    name = "fa"
    equation = "s_l = delta_{l+1} B_{l+1}"
    source = "Lillicrap et al. 2016"

    def width(self, boundary: int) -> int:
        """min(d_l, d_{l+1})."""
        return min(self.network.sizes[boundary : boundary + 2])

    def feedback(self, boundary: int, *, sender: bool) -> Tensor | None:
        """B_{l+1}, shape (d_{l+1}, d_l), at the end that applies it."""
        below, above = self.network.sizes[boundary : boundary + 2]
        return self._hop_feedback(boundary) if sender == (below < above) else None

    def emit(self, delta: Tensor, weight: Tensor, feedback: Tensor | None) -> Tensor:
        """delta_{l+1}, or delta_{l+1} B_{l+1} where that is narrower."""
        return delta if feedback is None else delta @ feedback

    def teach(self, message: Tensor, feedback: Tensor | None) -> Tensor:
        """message B_{l+1}, or the message where the sender applied B."""
        return message if feedback is None else message @ feedback
