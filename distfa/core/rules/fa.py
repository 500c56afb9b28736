"""fa: feedback alignment, hop by hop through a fixed matrix, whichever end makes the message narrower."""

from __future__ import annotations

from torch import Tensor

from distfa.core.rules.base import Rule
from distfa.core.rules.cost import Cost


class FeedbackAlignment(Rule):
    """s_l = delta_{l+1} B_{l+1}, B fixed.

    B is applied by the sender where layer l is narrower than layer l+1, else by the receiver: the
    product is the same, the message is min(d_l, d_{l+1}) columns. With rank r, B = U V: the sender
    applies U, the receiver V, and the message is r columns.

    Source: Lillicrap, Cownden, Tweed & Akerman, Nature Communications 7, 2016.
    """

    name = "fa"
    equation = "delta_{l+1} B_{l+1}"
    sends = "min(d_l, d_{l+1}), or r"
    potential = "<B[:,i], W[:,i]>"
    source = "Lillicrap et al. 2016"
    takes_rank = True

    def width(self, boundary: int) -> int:
        """min(d_l, d_{l+1}), or the rank where that is less."""
        narrower = min(self.network.sizes[boundary : boundary + 2])
        return min(narrower, self.recipe.rank or narrower)

    def fixed(self, boundary: int) -> Tensor | None:
        """B_{l+1}, or the product of its factors."""
        full = self.hop_feedback(boundary)
        if self.recipe.rank is None:
            return full
        sender, receiver = self.factors(full)
        return sender @ receiver

    def feedback(self, boundary: int, *, sender: bool) -> Tensor | None:
        """B_{l+1}, shape (d_{l+1}, d_l), at the end that applies it; or that end's factor."""
        below, above = self.network.sizes[boundary : boundary + 2]
        if self.recipe.rank is not None and self.recipe.rank < min(below, above):
            return self.factors(self.hop_feedback(boundary))[0 if sender else 1]
        return self.hop_feedback(boundary) if sender == (below < above) else None

    def cost(self, boundary: int) -> Cost:
        """B at the end that applies it; or a factor at each."""
        below, above = self.network.sizes[boundary : boundary + 2]
        low, width = self.width(boundary) < min(below, above), self.width(boundary)
        at_origin, at_learner = low or below < above, low or below >= above
        return Cost(
            origin_multiplies=at_origin,
            learner_multiplies=at_learner,
            origin_keeps=above * width if at_origin else 0,
            learner_keeps=width * below if at_learner else 0,
            books_keep=below * above,
        )
