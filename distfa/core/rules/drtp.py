"""drtp: direct random target projection, labels in place of errors; nothing travels down."""

from __future__ import annotations

from torch import Tensor

from distfa.core.rules.base import DirectRule

_SATURATING = ("tanh",)


class DirectRandomTargetProjection(DirectRule):
    """s_l = onehot(y) B_l / N: every hidden layer reads the labels itself, in the run's seeded order.

    A layer may update before the forward pass above it has ended. In the error the target has a minus sign (e =
    (softmax - onehot) / N), so the aligned B_l is minus the product of the initial weights above; a random B_l has no
    preferred sign.

    It needs activations that saturate. The labels never change, so only phi'(z) = 0 stops the push on a neuron. With
    tanh every neuron ends at +1 or -1, one code per class. With ReLU a neuron dies, or its output and weights grow
    without end and the loss goes into the thousands.

    Source: Frenkel, Lefebvre & Bol, Frontiers in Neuroscience 15, 2021.
    """

    name = "drtp"
    equation = "onehot(y) B_l / N"
    sends = "0"
    potential = ""
    source = "Frenkel et al. 2021"
    reads_labels = True
    takes_privacy = True
    caution = (
        "drtp: where its hidden layers saturate, their gradients vanish, and the remaining alignment is the "
        "output layer's"
    )

    def condition(self) -> tuple[str, str] | None:
        """Hidden activations that do not saturate."""
        hidden = [self.network[boundary] for boundary in self.network.boundaries]
        names = {n: spec.activation.name for n, spec in enumerate(hidden, start=1) if spec.activation_known}
        endless = {layer: name for layer, name in names.items() if name not in _SATURATING}
        if not endless:
            return None
        return (
            "rule drtp pushes every hidden neuron one way until its activation saturates, and "
            f"{', '.join(sorted(set(endless.values())))} of layer {', '.join(map(str, endless))} never does, so "
            "that weights and loss grow without bound",
            "use tanh (model.activation=tanh), or rule dfa",
        )

    def origin(self, boundary: int) -> int | None:
        """None: no message."""
        return None

    def delay(self, layer: int) -> int:
        """None: labels are there at once."""
        return 0

    @property
    def is_straight(self) -> bool:
        """No error travels."""
        return True

    def teacher(self, boundary: int) -> Tensor | None:
        """B_l, shape (C, d_l)."""
        return self.direct_feedback(boundary).neg_()

    def teacher_from_rows(self, feedback: Tensor) -> Tensor:
        """The rows, with their sign changed."""
        return super().teacher_from_rows(feedback).neg_()
