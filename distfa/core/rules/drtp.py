"""drtp: direct random target projection, labels in place of errors; nothing travels down."""

from __future__ import annotations

from torch import Tensor

from distfa.core.rules.base import Rule

_SATURATING = ("tanh", "sigmoid")


class DirectRandomTargetProjection(Rule):
    """s_l = onehot(y) B_l / N: every hidden layer reads the labels itself, in the run's seeded order.

    A layer may update before the forward pass above it has ended. What the target's share of the error
    has is a minus sign (e = (softmax - onehot) / N), so the aligned B_l is minus the product of the
    initial weights above; a random B_l has no preferred sign.

    It needs activations that saturate. The labels never change, so nothing but phi'(z) = 0 ends the push on a neuron:
    with tanh every neuron comes to rest at +1 or -1, one code per class; with ReLU its output and weights grow without
    end or it dies, and the loss goes into the thousands.

    Source: Frenkel, Lefebvre & Bol, Frontiers in Neuroscience 15, 2021.
    """

    name = "drtp"
    equation = "onehot(y) B_l / N"
    cost = "0"
    potential = ""
    source = "Frenkel et al. 2021"
    reads_labels = True

    def condition(self) -> tuple[str, str] | None:
        """Hidden activations that do not saturate."""
        hidden = {layer: self.network[layer].activation.name for layer in self.network.boundaries}
        endless = {layer: name for layer, name in hidden.items() if name not in _SATURATING}
        if not endless:
            return None
        return (
            "rule drtp pushes every hidden neuron one way until its activation saturates, and "
            f"{', '.join(sorted(set(endless.values())))} of layer {', '.join(map(str, endless))} never does, so that "
            "weights and loss grow without end",
            "use tanh (model.activation=tanh), or rule dfa",
        )

    def origin(self, boundary: int) -> int | None:
        """None: no message."""
        return None

    def width(self, boundary: int) -> int:
        """0."""
        return 0

    def feedback(self, boundary: int, *, sender: bool) -> Tensor | None:
        """B_l, shape (C, d_l), at the layer that learns."""
        return None if sender else self.direct_feedback(boundary).neg_()
