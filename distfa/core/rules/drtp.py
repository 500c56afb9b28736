"""drtp: direct random target projection, labels in place of errors; nothing travels down."""

from __future__ import annotations

from torch import Tensor

from distfa.core.rules.base import Rule
from distfa.core.rules.cost import Cost


class DirectRandomTargetProjection(Rule):
    """s_l = onehot(y) B_l / N: every hidden layer reads the labels itself, in the run's seeded order.

    A layer may update before the forward pass above it has ended. What the target's share of the error
    has is a minus sign (e = (softmax - onehot) / N), so the aligned B_l is minus the product of the
    initial weights above; a random B_l has no preferred sign.

    Source: Frenkel, Lefebvre & Bol, Frontiers in Neuroscience 15, 2021.
    """

    name = "drtp"
    equation = "onehot(y) B_l / N"
    sends = "0"
    potential = ""
    caution = (
        "drtp: where its hidden layers saturate their gradients vanish, and what alignment is left is the output "
        "layer's"
    )
    source = "Frenkel et al. 2021"
    reads_labels = True

    def origin(self, boundary: int) -> int | None:
        """None: no message."""
        return None

    def width(self, boundary: int) -> int:
        """0."""
        return 0

    def feedback(self, boundary: int, *, sender: bool) -> Tensor | None:
        """B_l, shape (C, d_l), at the layer that learns."""
        return None if sender else self.direct_feedback(boundary).neg_()

    def cost(self, boundary: int) -> Cost:
        """B_l, (C, d_l), at the layer that learns."""
        return Cost(learner_multiplies=True, learner_keeps=self.network.sizes[-1] * self.network.sizes[boundary])

    def delay(self, layer: int) -> int:
        """None: labels are there at once."""
        return 0

    @property
    def is_straight(self) -> bool:
        """No error travels."""
        return True
