"""One layer's part of a probe of one step: its true gradient, and how the rule's signals and update compare with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from distfa.core.base.recipe import Recipe
from distfa.core.base.scored import Scored
from distfa.core.books.probe import LayerProbe, carried, measure_alignment, row_cosines, sound
from distfa.core.books.rounding import Rounding
from distfa.core.layer import Layer


class Probing:
    """A probe of one step at one layer: all forwards, then all backwards, at the weights before the step.

    The rule's own backwards of the step, whose signals are compared, may come before: under ``async`` upper layers are
    ahead of the lower ones.

    Args:
        recipe: The run's.
        layer: The layer, at the weights before the step.
        step: Counted from 0.
    """

    def __init__(self, recipe: Recipe, layer: Layer, step: int) -> None:
        self._layer, self._step, self._gain = layer, step, recipe.feedback.gain
        self._round_off = float(Rounding(recipe).of_products(1.0, 1.0))
        self._tapes: dict[int, Any] = {}
        self._held: Any = None  # what the block holds before the next forward
        self._gradients: list[Tensor] = []
        self._active: Tensor | None = None
        self._cosines: list[Tensor] = []

    def forward(self, h_in: Tensor, micro_batch: int) -> Tensor:
        """h of one micro-batch."""
        if micro_batch == 0:
            self._held = self._layer.held_before(self._step)
        tape = self._layer.forward_aside(h_in, (self._step, micro_batch), since=self._held)
        self._tapes[micro_batch], self._held = tape, tape.after
        active = (tape.h != 0).flatten(1).any(0)
        self._active = active if self._active is None else self._active | active
        h: Tensor = tape.h
        return h

    def backward(self, gradient: Tensor, micro_batch: int) -> Tensor | None:
        """One micro-batch of the true backward pass.

        Args:
            gradient: dLoss/dh_l, in the shape of h_l; at the output layer the gradient of the loss itself.
            micro_batch: In order.

        Returns:
            dLoss/dh_{l-1}; None at the first layer, since nothing waits for it.
        """
        tape, block = self._tapes.pop(micro_batch), self._layer.block
        delta = block.start(gradient, tape)
        parts = block.gradients(delta, tape)
        if self._gradients:
            parts = [so_far.add_(part) for so_far, part in zip(self._gradients, parts, strict=True)]
        self._gradients = parts
        return block.back(delta, tape, {}) if self._layer.index > 1 else None

    def sound_at_output(self, scored: Scored) -> Tensor:
        """Which rows of the output's error are more than round-off, shape (n,)."""
        rows: Tensor = scored.gradient.flatten(1).norm(dim=1) > self._round_off * scored.scale
        return rows

    def compare(self, s: Tensor, straight: Tensor) -> Tensor:
        """Compare a micro-batch's s_l with what backpropagation would send: signal alignment.

        Returns:
            Which rows of both are more than round-off, shape (n,).
        """
        s, straight = s.flatten(1), straight.flatten(1)
        rows = sound(s / self._gain, straight, self._round_off)
        self._cosines.append(row_cosines(s, straight)[rows])
        return rows

    def straight(self, micro_batch: int, s: Tensor, delta: Tensor, rows: Tensor) -> Tensor:
        """The rule's own delta taken back exactly, as backpropagation would do it: shape of h_{l-1}.

        Rows that are only round-off are zero, so that the layers below leave them out.

        Args:
            micro_batch: Its number within the step.
            s: s_l of the rule.
            delta: delta_l of the rule.
            rows: Which rows of ``s`` are more than round-off.
        """
        down = self._layer.back_exactly(delta, (self._step, micro_batch))
        rows = rows & carried(down, s, self._round_off)
        return torch.where(rows.view(-1, *[1] * (down.dim() - 1)), down, 0.0)

    def result(self) -> LayerProbe:
        """The layer's alignment with the true gradient of the step, after its backwards and before its update."""
        cosines = torch.cat(self._cosines) if self._cosines else torch.empty(0)
        signal = cosines.mean().item() if len(cosines) else None
        active = None if self._active is None else self._active.double().mean().item()
        found = measure_alignment(
            self._step, self._layer.index, self._layer.parameters, self._gradients, signal, active
        )
        return replace(found, altered=self._layer.ends.altered())
