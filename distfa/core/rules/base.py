"""What a feedback rule is: which error signal is sent to a layer, and what the layer reads in it.

Shapes: delta_l (N, d_l); W_l (d_l, d_{l-1}); s_l (N, d_l); a message to layer l (N, width(l)).
B of boundary l has the shape of W_{l+1} for rules that go hop by hop, (C, d_l) for direct ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from distfa.core.draw import Purpose, initial_weight
from distfa.core.recipe import Recipe


class Rule(ABC):
    """One feedback rule for one run; pure functions of the recipe and their arguments.

    Attributes:
        name: What the spec calls it.
        equation: The teaching signal s_l, in theory.md's symbols.
        source: Where the rule comes from.
    """

    name: ClassVar[str]
    equation: ClassVar[str]
    source: ClassVar[str]

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.network = recipe.network

    def origin(self, boundary: int) -> int:
        """The layer that sends the error signal across ``boundary`` to the layer below it."""
        return boundary + 1

    @abstractmethod
    def width(self, boundary: int) -> int:
        """Columns of the message to layer ``boundary``: what the rule costs on the wire."""

    @abstractmethod
    def feedback(self, boundary: int, *, sender: bool) -> Tensor | None:
        """The feedback matrix that one end of ``boundary`` needs, from the seed; None for none.

        Args:
            boundary: Between layers ``boundary`` and ``boundary + 1``.
            sender: Which end asks: the origin (True) or the layer that learns (False).
        """

    @abstractmethod
    def emit(self, delta: Tensor, weight: Tensor, feedback: Tensor | None) -> Tensor:
        """The message, from the origin's delta (N, d_origin), its own W and its feedback matrix."""

    @abstractmethod
    def teach(self, message: Tensor, feedback: Tensor | None) -> Tensor:
        """The teaching signal s_l (N, d_l), from the message and the learning layer's feedback matrix."""

    def _hop_feedback(self, boundary: int) -> Tensor:
        """B in the shape of W_{boundary+1}: on W(0) itself if aligned, else an independent draw like it."""
        purpose = Purpose.WEIGHT if self.recipe.init == "aligned" else Purpose.FEEDBACK
        return initial_weight(self.recipe, boundary + 1, purpose)
