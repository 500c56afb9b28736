"""What a feedback rule is: which error signal is sent to a layer, and what the layer reads in it.

Shapes: delta_l (N, d_l); W_l (d_l, d_{l-1}); s_l (N, d_l); a message to layer l (N, width(l)).
B of boundary l has the shape of W_{l+1} for rules that go hop by hop, (C, d_l) for direct ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from distfa.core.draw import Purpose, initial_weight, matrix
from distfa.core.recipe import Recipe
from distfa.core.rules.cost import Cost


class Rule(ABC):
    """One feedback rule for one run; pure functions of the recipe and their arguments.

    Attributes:
        name: What the spec calls it.
        equation: The teaching signal s_l, in theory.md's symbols.
        sends: Numbers on the wire per sample and boundary, on the way down.
        potential: The feedback potential Phi_{l+1}[i], in symbols; empty for a rule without one, for
            which there is no conservation law.
        source: Where the rule comes from.
        caution: What a reader of its figures must know; empty for nothing.
        takes_init: Whether its feedback depends on ``init``.
        takes_rank: Whether B can be of low rank.
        takes_fanout: Whether messages at full rank are all alike, so that layers can pass them on (recipe.fanout).
        reads_labels: Whether hidden layers read the labels themselves; then nothing travels down.
        is_direct: Whether B_l leads straight from the output to layer l.
        learns_feedback: Whether the layer that learns updates its B as the layer above updates W.
    """

    name: ClassVar[str]
    equation: ClassVar[str]
    sends: ClassVar[str]
    potential: ClassVar[str]
    source: ClassVar[str]
    caution: ClassVar[str] = ""
    takes_init: ClassVar[bool] = True
    takes_rank: ClassVar[bool] = False
    takes_fanout: ClassVar[bool] = False
    reads_labels: ClassVar[bool] = False
    is_direct: ClassVar[bool] = False
    learns_feedback: ClassVar[bool] = False

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.network = recipe.network

    def origin(self, boundary: int) -> int | None:
        """The layer that sends the error signal across ``boundary`` to the layer below it; None if none does."""
        return boundary + 1

    @abstractmethod
    def width(self, boundary: int) -> int:
        """Columns of the message to layer ``boundary``: what the rule costs on the wire."""

    def feedback(self, boundary: int, *, sender: bool) -> Tensor | None:
        """The feedback matrix that one end of ``boundary`` needs, from the seed; None for none.

        Args:
            boundary: Between layers ``boundary`` and ``boundary + 1``.
            sender: Which end asks: the origin (True) or the layer that learns (False).
        """
        return None

    def refresh(self, boundary: int, step: int) -> Tensor | None:
        """A new matrix for the origin's end at the start of a step; None to keep the one it has."""
        return None

    def emit(self, delta: Tensor, weight: Tensor, feedback: Tensor | None) -> Tensor:
        """The message, from the origin's delta (N, d_origin), its own W and its feedback matrix."""
        return delta if feedback is None else delta @ feedback

    def teach(self, message: Tensor, feedback: Tensor | None) -> Tensor:
        """The teaching signal s_l (N, d_l), from the message and the learning layer's feedback matrix."""
        return message if feedback is None else message @ feedback

    def fixed(self, boundary: int) -> Tensor | None:
        """All of the fixed matrix of a boundary, as the rule uses it, for the ledger; None for none."""
        return None

    def field(self, weight: Tensor, fixed: Tensor | None) -> Tensor:
        """What stands in place of W_{l+1} on the way down, in its shape: the gradient of the potential.

        Args:
            weight: W_{l+1}.
            fixed: As ``fixed`` gives it, in the dtype of ``weight``.
        """
        return weight if fixed is None else fixed

    def phi(self, weight: Tensor, fixed: Tensor | None) -> Tensor:
        """The potential Phi_{l+1}, one number per neuron of layer l, shape (d_l,)."""
        return (self.field(weight, fixed) * weight).sum(0)

    def hop_feedback(self, boundary: int) -> Tensor:
        """B in the shape of W_{boundary+1}: on W(0) itself if aligned, else an independent draw like it."""
        purpose = Purpose.WEIGHT if self.recipe.init == "aligned" else Purpose.FEEDBACK
        return initial_weight(self.recipe, boundary + 1, purpose).mul_(self.recipe.gain)

    def direct_feedback(self, boundary: int) -> Tensor:
        """B in the shape (C, d_l), from the output straight to layer ``boundary``.

        Aligned: the product of the initial weights above layer l, each hidden one times its mean
        slope, so that e B_l is the backpropagated signal at step 0 with phi' replaced by its mean
        (theory.md, aligned initialisation). Random: a draw whose columns have a mean square norm of 1.
        """
        recipe, sizes, last = self.recipe, self.network.sizes, len(self.network)
        if recipe.init != "aligned":
            drawn = matrix(
                sizes[boundary],
                sizes[-1],
                seed=recipe.seed,
                purpose=Purpose.FEEDBACK,
                index=boundary,
                distribution=recipe.distribution,
            )
            return drawn.t().contiguous().mul_(recipe.gain)
        product = initial_weight(recipe, last)
        for above in range(last - 1, boundary, -1):
            product = product @ initial_weight(recipe, above).mul_(self.network[above].activation.mean_slope)
        return product.mul_(recipe.gain)

    def factors(self, full: Tensor) -> tuple[Tensor, Tensor]:
        """(sender's, receiver's) factors of the best approximation of B of the recipe's rank.

        Shapes (rows, r) and (r, columns); their product is the feedback the rule uses.
        Source: Eckart & Young 1936.
        """
        u, s, vh = torch.linalg.svd(full, full_matrices=False)
        rank = self.recipe.rank or len(s)
        return (u[:, :rank] * s[:rank]).contiguous(), vh[:rank].contiguous()

    def cost(self, boundary: int) -> Cost:
        """What ``boundary`` asks of its ends; here of a learner that applies a matrix (width, d_l) to what it gets."""
        numbers = self.width(boundary) * self.network.sizes[boundary]
        return Cost(learner_multiplies=True, learner_keeps=numbers, books_keep=numbers)

    def delay(self, layer: int) -> int:
        """Micro-batches until an error is back at ``layer`` in a pipe without gaps: here one per layer above."""
        return len(self.network) - layer

    @property
    def is_straight(self) -> bool:
        """Whether no error goes through other layers on its way down."""
        return False

    @cached_property
    def sent_by(self) -> dict[int, list[int]]:
        """For every origin the boundaries it sends errors across, upwards, in which order it sends."""
        found: dict[int, list[int]] = {}
        for boundary in self.network.boundaries:
            if (origin := self.origin(boundary)) is not None:
                found.setdefault(origin, []).append(boundary)
        return found

    @property
    def errors_in_order(self) -> list[int]:
        """The boundaries in the order in which their errors are sent, from the top origin down."""
        return [boundary for origin in sorted(self.sent_by, reverse=True) for boundary in self.sent_by[origin]]
