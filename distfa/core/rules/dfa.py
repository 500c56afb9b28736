"""dfa: direct feedback alignment, the output error straight to every hidden layer."""

from __future__ import annotations

from torch import Tensor

from distfa.core.rules.base import Rule


class DirectFeedbackAlignment(Rule):
    """s_l = e B_l, B_l fixed, shape (C, d_l); no hop waits for another.

    With rank r, B_l = U V: the output layer applies U, layer l applies V, the message is r columns. With
    fan-out k, the output layer sends e to k layers only, and each of those passes it on to k more: the layers in
    order from the output down are a tree.
    """

    name = "dfa"
    equation = "e B_l"
    cost = "C, straight from the output; or r"
    potential = "<B_l[:,i], V_l[:,i]>, V_l the shadow readout"
    source = "Nokland 2016"
    takes_rank = True
    is_direct = True

    def origin(self, boundary: int) -> int | None:
        """The output layer L, or whoever passes its error on to layer ``boundary``."""
        last, fanout = len(self.network), self.recipe.fanout
        return last if fanout is None else last - (last - boundary - 1) // fanout

    def width(self, boundary: int) -> int:
        """C, the width of the output, or the rank where that is less."""
        outputs = self.network.sizes[-1]
        return min(outputs, self.recipe.rank) if self._low(boundary) and self.recipe.rank else outputs

    def feedback(self, boundary: int, *, sender: bool) -> Tensor | None:
        """B_l, shape (C, d_l), at the layer that learns; or each end's factor."""
        if self._low(boundary):
            return self.factors(self.direct_feedback(boundary))[0 if sender else 1]
        return None if sender else self.direct_feedback(boundary)

    def _low(self, boundary: int) -> bool:
        rank = self.recipe.rank
        return rank is not None and rank < min(self.network.sizes[boundary], self.network.sizes[-1])
