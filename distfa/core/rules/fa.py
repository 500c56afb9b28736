"""fa: feedback alignment, hop by hop through a fixed matrix, applied at the end that makes the message narrower."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from distfa.core.base.model import Shape
from distfa.core.rules.base import Back, HopRule, factors


class FeedbackAlignment(HopRule):
    """s_l = delta_{l+1} B_{l+1}, B fixed, in place of every weight in the backward pass.

    Where layer l+1 is one Linear in a network drawn from the seed, B is applied by the sender if layer l is
    narrower than layer l+1, else by the receiver. The product is the same, and the message has min(d_l, d_{l+1})
    columns. With rank r, B = U V: the sender applies U, the receiver V, and the message has r columns.

    Source: Lillicrap, Cownden, Tweed & Akerman, Nature Communications 7, 2016.
    """

    name = "fa"
    equation = "delta_{l+1} B_{l+1}"
    sends = "min(d_l, d_{l+1}), or r"
    potential = "<B[:,i], W[:,i]>"
    source = "Lillicrap et al. 2016"
    takes_rank = True
    takes_privacy = True

    def shape(self, boundary: int) -> Shape:
        """min(d_l, d_{l+1}), or the rank if that is less; the shape of h_l where layers are not single Linears."""
        if not self.network.seeded:
            return super().shape(boundary)
        narrower = min(self.network.sizes[boundary : boundary + 2])
        return (min(narrower, self.recipe.feedback.rank or narrower),)

    def origin_state(self, boundary: int, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """B_{l+1}, in the shape of each weight, if this end applies it; or this end's factor."""
        if (rank := self._rank(boundary)) is not None:
            first, _ = factors(self.recipe, boundary, self.hop_feedback(boundary), rank)
            return dict.fromkeys(weights, first)
        return self.feedback_for_weights(boundary, weights) if self._is_applied_by_sender(boundary) else {}

    def emit(self, delta: Tensor, state: Mapping[str, Tensor], weights: Mapping[str, Tensor], back: Back) -> Tensor:
        """delta B, delta U, or delta itself where the receiver applies B."""
        return back(state) if state else delta

    def teacher(self, boundary: int) -> Tensor | None:
        """B_{l+1}, shape (d_{l+1}, d_l), where the receiver applies it; or its factor."""
        if (rank := self._rank(boundary)) is not None:
            return factors(self.recipe, boundary, self.hop_feedback(boundary), rank)[1]
        return None if self._is_applied_by_sender(boundary) else self.hop_feedback(boundary)

    def fixed_feedback(self, boundary: int, weight: str, state: Mapping[str, Tensor]) -> Tensor | None:
        """All of B_{l+1}."""
        if (rank := self._rank(boundary)) is not None:
            first, second = factors(self.recipe, boundary, self.hop_feedback(boundary), rank)
            return first @ second
        return state[weight] if state else self.hop_feedback(boundary)

    def _rank(self, boundary: int) -> int | None:
        """The rank, if it is lower than full."""
        rank = self.recipe.feedback.rank
        return rank if rank is not None and rank < min(self.network.sizes[boundary : boundary + 2]) else None

    def _is_applied_by_sender(self, boundary: int) -> bool:
        below, above = self.network.sizes[boundary : boundary + 2]
        return not self.network.seeded or below < above
