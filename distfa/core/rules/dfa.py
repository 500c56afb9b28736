"""dfa: direct feedback alignment, the output error straight to every hidden layer."""

from __future__ import annotations

from torch import Tensor

from distfa.core.draw import Purpose, initial_weight, matrix
from distfa.core.rules.base import Rule


class DirectFeedbackAlignment(Rule):
    """s_l = e B_l, B_l fixed, shape (C, d_l); no hop waits for another.

    Source: Nokland, NeurIPS 2016.
    """

    name = "dfa"
    equation = "s_l = e B_l"
    source = "Nokland 2016"

    def origin(self, boundary: int) -> int:
        """The output layer L, for every boundary."""
        return len(self.network)

    def width(self, boundary: int) -> int:
        """C, the width of the output."""
        return self.network.sizes[-1]

    def feedback(self, boundary: int, *, sender: bool) -> Tensor | None:
        """B_l, shape (C, d_l), at the layer that learns.

        Aligned: the product of the initial weights above layer l, each hidden one times its mean
        slope, so that e B_l is the backpropagated signal at step 0 with phi' replaced by its mean
        (theory.md, aligned initialisation). Random: a draw whose columns have a mean square norm of 1.
        """
        if sender:
            return None
        recipe, last = self.recipe, len(self.network)
        if recipe.init != "aligned":
            drawn = matrix(
                self.network.sizes[boundary],
                self.network.sizes[-1],
                seed=recipe.seed,
                purpose=Purpose.FEEDBACK,
                index=boundary,
                distribution=recipe.distribution,
            )
            return drawn.t().contiguous()
        product = initial_weight(recipe, last)
        for above in range(last - 1, boundary, -1):
            weight = initial_weight(recipe, above)
            product = product @ weight.mul_(self.network[above].activation.mean_slope)
        return product

    def emit(self, delta: Tensor, weight: Tensor, feedback: Tensor | None) -> Tensor:
        """e itself, shape (N, C)."""
        return delta

    def teach(self, message: Tensor, feedback: Tensor | None) -> Tensor:
        """e B_l."""
        return message if feedback is None else message @ feedback
