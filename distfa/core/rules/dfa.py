"""dfa: direct feedback alignment, the output error straight to every hidden layer."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from distfa.core.base.model import Shape
from distfa.core.rules.base import Back, DirectRule, factors

_PROJECTION = "e"  # the error has no weight to stand in for


class DirectFeedbackAlignment(DirectRule):
    """s_l = e B_l, B_l fixed, shape (C, d_l); no layer waits for the error of another hidden layer.

    With rank r, B_l = U V: the output layer applies U, layer l applies V, and the message has r columns. With fan-out
    k, the output layer sends e to k layers only, and each of those passes it on to k more: the layers in order from the
    output down form a tree. Where the output has an answer at every position of a sequence, B_l is the same at each
    position.

    Source: Nokland, NeurIPS 2016.
    """

    name = "dfa"
    equation = "e B_l"
    sends = "C, straight from the output; or r"
    potential = "<B_l[:,i], V_l[:,i]>, V_l the shadow readout"
    source = "Nokland 2016"
    takes_rank = True
    takes_fanout = True
    takes_renewal = True
    takes_privacy = True

    def origin(self, boundary: int) -> int | None:
        """The output layer L, or the layer that passes its error on to layer ``boundary``."""
        last, fanout = len(self.network), self.recipe.feedback.fanout
        return last if fanout is None else last - (last - boundary - 1) // fanout

    def shape(self, boundary: int) -> Shape:
        """The output's shape, or the rank if that is less."""
        rank = self._rank(boundary)
        return self.network.shapes[-1] if rank is None else (rank,)

    def origin_state(self, boundary: int, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The output's factor, where B_l is of low rank."""
        if (rank := self._rank(boundary)) is None:
            return {}
        return {_PROJECTION: factors(self.recipe, boundary, self.direct_feedback(boundary), rank)[0]}

    def emit(self, delta: Tensor, state: Mapping[str, Tensor], weights: Mapping[str, Tensor], back: Back) -> Tensor:
        """e, or e U."""
        return delta @ state[_PROJECTION] if state else delta

    def teacher(self, boundary: int) -> Tensor | None:
        """B_l, shape (C, d_l), or its factor."""
        full, rank = self.direct_feedback(boundary), self._rank(boundary)
        return full if rank is None else factors(self.recipe, boundary, full, rank)[1]

    def potential_layer(self, boundary: int) -> int:
        """As for every direct rule; but with a low rank the output's W does not move like the shadow readout."""
        return boundary if self._rank(boundary) is not None else super().potential_layer(boundary)

    def delay(self, layer: int) -> int:
        """Two thirds of a micro-batch per layer above: half of one for the way up, the rest for messages."""
        return (2 * super().delay(layer) + 1) // 3

    @property
    def is_straight(self) -> bool:
        """True unless layers pass the error on."""
        return self.recipe.feedback.fanout is None

    def _rank(self, boundary: int) -> int | None:
        """The rank, if it is lower than full."""
        rank, full = self.recipe.feedback.rank, min(self.network.sizes[boundary], self.network.sizes[-1])
        return rank if rank is not None and rank < full else None
