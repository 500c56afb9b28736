"""skip: the exact error at the top of a residual network, straight down its shortcuts."""

from __future__ import annotations

from torch import Tensor

from distfa.core.base.model import Shape
from distfa.core.base.shortcuts import take_down
from distfa.core.rules.dfa import DirectFeedbackAlignment


class SkipFeedback(DirectFeedbackAlignment):
    """s_l = g S_{L-1} ... S_{l+1}: of all ways that an error can go down, the one that leads through no weight.

    The output layer sends g = dLoss/dh_{L-1}, which it knows exactly, from its own weights. A layer h_k = S_k h_{k-1} +
    F_k(h_{k-1}) has the shortcut S_k, fixed and without weights; most are the identity. No weight travels, nothing is
    drawn or renewed. The smaller the branches F, the closer s_l is to the true gradient.

    Source: theory.md, Skip feedback.
    """

    name = "skip"
    equation = "g S_{L-1} ... S_{l+1}, g = dLoss/dh_{L-1}"
    sends = "d_{L-1}, straight from the output"
    potential = "sum of -lr s h (booked; no law)"
    has_law = False
    source = "distfa"
    takes_rank = False
    takes_renewal = False
    takes_init = False
    follows_shortcuts = True

    def shape(self, boundary: int) -> Shape:
        """That of h_{L-1}."""
        return self.network.shapes[-2]

    def teacher(self, boundary: int) -> Tensor | None:
        """The path of shortcuts to layer l; None for the identity.

        Raises:
            ValueError: The network does not have it.
        """
        network = self.network
        if boundary == len(network) - 1:
            return None
        if boundary not in network.paths:
            raise ValueError(f"rule {self.name!r} needs the path of shortcuts to layer {boundary}: Network.paths")
        path: Tensor | None = network.paths[boundary]
        return path

    def teach(self, message: Tensor, teacher: Tensor | None) -> Tensor:
        """g along the shortcuts."""
        return message if teacher is None else take_down(message, teacher)

    def renews(self, step: int) -> bool:
        """Never: shortcuts are fixed."""
        return False

    def potential_layer(self, boundary: int) -> int:
        """Layer l, which knows s and h."""
        return boundary
