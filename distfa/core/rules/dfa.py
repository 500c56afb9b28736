"""dfa: direct feedback alignment, the output error straight to every hidden layer."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from distfa.core.rules.base import Rule
from distfa.core.rules.cost import Cost


class DirectFeedbackAlignment(Rule):
    """s_l = e B_l, B_l fixed, shape (C, d_l); no hop waits for another.

    With rank r, B_l = U V: the output layer applies U, layer l applies V, the message is r columns. With
    fan-out k, the output layer sends e to k layers only, and each of those passes it on to k more: the layers in
    order from the output down are a tree.
    """

    name = "dfa"
    equation = "e B_l"
    sends = "C, straight from the output; or r"
    potential = "<B_l[:,i], V_l[:,i]>, V_l the shadow readout"
    source = "Nokland 2016"
    takes_rank = True
    takes_fanout = True
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

    def cost(self, boundary: int) -> Cost:
        """B_l at the layer that learns; or a factor at each end."""
        outputs, low, whole = self.network.sizes[-1], self._low(boundary), super().cost(boundary)
        kept, full = outputs * self.width(boundary), outputs * self.network.sizes[boundary]
        return replace(whole, origin_multiplies=low, origin_keeps=kept if low else 0, books_keep=full)

    def delay(self, layer: int) -> int:
        """Two thirds of a micro-batch per layer above: half of one on the way up, and what messages add."""
        return (2 * super().delay(layer) + 1) // 3

    @property
    def is_straight(self) -> bool:
        """Unless layers pass the error on."""
        return self.recipe.fanout is None
