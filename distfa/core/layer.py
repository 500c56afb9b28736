"""One layer: its weights, its optimizer, and all it computes; the same object in every engine.

Legend, for a micro-batch of n rows: h_in (n, d_{l-1}), z, h, s, delta (n, d_l), W (d_l, d_{l-1}),
b (d_l,), G (d_l, d_{l-1}), g (d_l,). Every tensor a layer hands out is a fresh, aligned allocation:
BLAS may round differently on other alignments, and engines must agree to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distfa.core import optim, rules
from distfa.core.draw import initial_weight
from distfa.core.layer_ledger import LayerLedger
from distfa.core.ledger import Half
from distfa.core.losses import LOSSES, Scored
from distfa.core.probe import LayerProbe, measure
from distfa.core.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """What a micro-batch's backward needs of its forward."""

    h_in: Tensor
    z: Tensor
    h: Tensor
    message: Tensor | None = None  # for a rule that learns its feedback


class Layer:
    """Layer ``index`` of the recipe's network.

    Updates are local: G = delta^T h_in, g = sum of delta over rows, summed over the micro-batches of a
    step in order, then one optimizer step.

    Args:
        recipe: What every layer of the run agrees on.
        index: l, counted from 1.
        device: Where weights and signals live.
        given: (W, b) to start from, for ``init: given``; b is None where the layer has no bias.
    """

    def __init__(
        self,
        recipe: Recipe,
        index: int,
        *,
        device: torch.device | str = "cpu",
        given: tuple[Tensor, Tensor | None] | None = None,
    ) -> None:
        self.index = index
        self.shape = recipe.network[index]
        self.device = torch.device(device)
        self._dtype = recipe.dtype
        self._outputs = recipe.network.sizes[-1]
        self._is_output = index == len(recipe.network)
        self._loss = LOSSES[recipe.loss]
        self.rule = rules.build(recipe)
        self.weight, self.bias = self._initial(recipe, given)
        boundaries = recipe.network.boundaries
        self.sends_to = tuple(b for b in reversed(boundaries) if self.rule.origin(b) == index)
        self._emits_with = {b: self._matrix(self.rule.feedback(b, sender=True)) for b in self.sends_to}
        self._learns_with = None if self._is_output else self._matrix(self.rule.feedback(index, sender=False))
        self.optimizer = optim.build(recipe.optimizer, self.parameters)
        self._feedback_optimizer = (
            optim.build(recipe.optimizer, [self._learns_with])
            if self.rule.learns_feedback and self._learns_with is not None
            else None
        )
        self._ledger = (
            LayerLedger(recipe, index, self.rule, self.weight) if recipe.ledger_every and self.rule.potential else None
        )
        self._kept: dict[int, _Kept] = {}
        self._probe_kept: dict[int, tuple[_Kept, Tensor]] = {}
        self._true_gradients: list[Tensor] = []
        self._probed = False
        self._has_gradient = False

    @property
    def parameters(self) -> list[Tensor]:
        """[W] or [W, b]."""
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    def state(self) -> dict[str, Tensor]:
        """The weights under the keys of the user's own model."""
        named = {f"{self.shape.key}.weight": self.weight}
        if self.bias is not None:
            named[f"{self.shape.key}.bias"] = self.bias
        return named

    def begin_step(self, step: int, *, probed: bool = False) -> None:
        """Draw what the rule draws anew for every step, and open the books where they are due.

        Args:
            step: Counted from 0.
            probed: Whether a probe follows, so that forwards are kept for it.
        """
        self._probed = probed
        self._true_gradients = []
        if self._ledger is not None:
            self._ledger.begin(step)
        for boundary in self.sends_to:
            fresh = self.rule.refresh(boundary, step)
            if fresh is not None:
                self._emits_with[boundary] = self._matrix(fresh)

    def infer(self, h_in: Tensor) -> Tensor:
        """h = phi(h_in W^T + b), keeping nothing; shape (n, d_l)."""
        return self.shape.activation.forward(self._affine(h_in))

    def forward(self, h_in: Tensor, micro_batch: int) -> Tensor:
        """As ``infer``, keeping what this micro-batch's backward needs."""
        z = self._affine(h_in)
        h = self.shape.activation.forward(z)
        self._kept[micro_batch] = _Kept(h_in=h_in, z=z, h=h)
        return h

    def score(self, output: Tensor, target: Tensor, rows: int) -> Scored:
        """The loss of one micro-batch of a batch of ``rows`` rows; output layer only."""
        return self._loss(output, target, rows)

    def output_delta(self, scored: Scored, micro_batch: int) -> Tensor:
        """delta_L = e = dLoss/dz_L, shape (n, C): the output layer always uses the exact error."""
        kept = self._kept[micro_batch]
        return self.shape.activation.backward(scored.gradient, kept.z, kept.h)

    def hidden_delta(self, message: Tensor, micro_batch: int) -> Tensor:
        """delta_l = s_l * phi'(z_l), shape (n, d_l), from the rule's error message to this layer."""
        kept = self._kept[micro_batch]
        if self._feedback_optimizer is not None:
            self._kept[micro_batch] = replace(kept, message=message)
        s = self.rule.teach(message, self._learns_with)
        delta = self.shape.activation.backward(s, kept.z, kept.h)
        if self._ledger is not None:
            self._ledger.observe(s, delta, kept.z, kept.h)
        return delta

    def label_message(self, target: Tensor, rows: int) -> Tensor:
        """What stands in for an error message where the rule reads labels: the target / rows, (n, C)."""
        if target.dim() == 2:
            return target / rows
        onehot = torch.zeros(len(target), self._outputs, dtype=self._dtype, device=self.device)
        return onehot.scatter_(1, target.unsqueeze(1), 1.0 / rows)

    def emit(self, boundary: int, delta: Tensor) -> Tensor:
        """The rule's error message across ``boundary``, one of ``sends_to``."""
        return self.rule.emit(delta, self.weight, self._emits_with[boundary])

    def accumulate(self, delta: Tensor, micro_batch: int) -> None:
        """Add this micro-batch's G = delta^T h_in and g = sum of rows of delta; forget its forward."""
        kept = self._kept.pop(micro_batch)
        if self._probed:
            self._probe_kept[micro_batch] = (kept, delta)
        self._add_product(self.weight, delta, kept.h_in)
        if self._learns_with is not None and kept.message is not None:
            self._add_product(self._learns_with, kept.message, kept.h)
        if self.bias is not None:
            g = delta.sum(dim=0)
            self.bias.grad = self.bias.grad.add_(g) if self._has_gradient and self.bias.grad is not None else g
        self._has_gradient = True

    def update(self, step: int) -> list[Half]:
        """One optimizer step with the gradient of all micro-batches so far; returns its entries in the books."""
        if self._ledger is None:
            self._descend()
            return []
        learned = self._learns_with, self._feedback_optimizer
        return self._ledger.around(
            step,
            self._descend,
            weight=(self.weight, self.optimizer),
            bias=self.bias,
            learned=None if learned[0] is None or learned[1] is None else (learned[0], learned[1]),
        )

    def probe(self, message: Tensor | None, micro_batch: int) -> Tensor:
        """One micro-batch of the true backward pass, after the rule's own; what backpropagation sends down.

        Args:
            message: delta_{l+1} W_{l+1} of the true gradient, (n, d_l); None at the output layer.
            micro_batch: In order.

        Returns:
            delta_l W_l, shape (n, d_{l-1}).
        """
        kept, delta = self._probe_kept.pop(micro_batch)
        if message is not None:
            delta = self.shape.activation.backward(message, kept.z, kept.h)
        parts = [delta.t() @ kept.h_in] if self.bias is None else [delta.t() @ kept.h_in, delta.sum(0)]
        if self._true_gradients:
            parts = [so_far.add_(part) for so_far, part in zip(self._true_gradients, parts, strict=True)]
        self._true_gradients = parts
        return delta @ self.weight

    def probed(self, step: int) -> LayerProbe:
        """This layer's alignment with the true gradient of the step, before its update."""
        return measure(step, self.index, self.parameters, self._true_gradients)

    def _descend(self) -> None:
        self.optimizer.step()
        if self._feedback_optimizer is not None:
            self._feedback_optimizer.step()
        self._has_gradient = False

    def _add_product(self, parameter: Tensor, left: Tensor, right: Tensor) -> None:
        """Add left^T right to the parameter's gradient, or begin it in the step's first micro-batch."""
        if parameter.grad is None:
            parameter.grad = torch.empty_like(parameter)
        if self._has_gradient:
            parameter.grad.addmm_(left.t(), right)
        else:
            torch.mm(left.t(), right, out=parameter.grad)

    def _affine(self, h_in: Tensor) -> Tensor:
        return torch.nn.functional.linear(h_in, self.weight, self.bias)

    def _matrix(self, matrix: Tensor | None) -> Tensor | None:
        return None if matrix is None else matrix.to(self.device, self._dtype)

    def _initial(self, recipe: Recipe, given: tuple[Tensor, Tensor | None] | None) -> tuple[Tensor, Tensor | None]:
        if given is not None:
            weight, bias = given
            return weight.detach().to(self.device, self._dtype, copy=True), (
                None if bias is None else bias.detach().to(self.device, self._dtype, copy=True)
            )
        weight = initial_weight(recipe, self.index).to(self.device, self._dtype)
        bias = torch.zeros(self.shape.outputs, dtype=self._dtype, device=self.device) if self.shape.bias else None
        return weight, bias
