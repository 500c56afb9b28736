"""One layer: its weights, its optimizer, and all it computes; the same object in every engine.

Legend, for a micro-batch of n rows: h_in (n, d_{l-1}), z, h, s, delta (n, d_l), W (d_l, d_{l-1}),
b (d_l,), G (d_l, d_{l-1}), g (d_l,). Every tensor a layer hands out is a fresh, aligned allocation:
BLAS may round differently on other alignments, and engines must agree to the last bit.

In a mixed run signals and products are bfloat16, and so are the copies of W, b and a learned B that they meet;
W, b, B, their gradients and the optimizer are float32.
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
from distfa.core.probe import LayerProbe, measure, row_cosines
from distfa.core.recipe import Recipe

Part = tuple[int, int]
"""A micro-batch: (step, its number within the step)."""


class _Operand:
    """A matrix that is updated, as products take it: itself, or a copy in the dtype of the signals.

    Args:
        master: Where updates are made.
        dtype: Of the signals.
    """

    def __init__(self, master: Tensor, dtype: torch.dtype) -> None:
        self.master = master
        self.value = master.to(dtype)

    def follow(self) -> None:
        """Take over an update of the master."""
        if self.value is not self.master:
            self.value.copy_(self.master)


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """What a micro-batch's backward needs of its forward; ``updates`` made before it tell the weights it saw."""

    h_in: Tensor
    z: Tensor
    h: Tensor
    updates: int = 0
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
        self._dtype, self._signal_dtype = recipe.dtype, recipe.signal_dtype
        self._outputs = recipe.network.sizes[-1]
        self._is_output = index == len(recipe.network)
        self._loss = LOSSES[recipe.loss]
        self.rule = rules.build(recipe)
        self.weight, self.bias = self._initial(recipe, given)
        boundaries = recipe.network.boundaries
        # The lowest first: it is the first to need its error, for its next step's forward.
        self.sends_to = tuple(b for b in boundaries if self.rule.origin(b) == index)
        self._emits_with = {b: self._matrix(self.rule.feedback(b, sender=True)) for b in self.sends_to}
        taught_by = None if self._is_output else self.rule.feedback(index, sender=False)
        self._learned = (
            _Operand(taught_by.to(self.device, self._dtype), self._signal_dtype)
            if taught_by is not None and self.rule.learns_feedback
            else None
        )
        self._learns_with = self._learned.value if self._learned is not None else self._matrix(taught_by)
        self._w = _Operand(self.weight, self._signal_dtype)
        self._b = None if self.bias is None else _Operand(self.bias, self._signal_dtype)
        self.optimizer = optim.Optimizer(recipe.optimizer, self.parameters)
        self._feedback_optimizer = (
            None if self._learned is None else optim.Optimizer(recipe.optimizer, [self._learned.master])
        )
        self._ledger = (
            LayerLedger(recipe, index, self.rule, self.weight) if recipe.ledger_every and self.rule.potential else None
        )
        self._kept: dict[Part, _Kept] = {}
        self._updates = 0
        self._has_gradient = False
        self._probed = False
        self._probe_kept: dict[int, _Kept] = {}
        self._true_gradients: list[Tensor] = []
        self._message = self._taught = torch.empty(0)  # of the last backward
        self._cosines: list[Tensor] = []

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
        """Before the step's first backward: draw what the rule draws anew, open the books where they are due.

        Args:
            step: Counted from 0.
            probed: Whether gradient alignment is probed in this step.
        """
        self._probed = probed
        self._cosines = []
        if self._ledger is not None:
            self._ledger.begin(step)
        for boundary in self.sends_to:
            fresh = self.rule.refresh(boundary, step)
            if fresh is not None:
                self._emits_with[boundary] = self._matrix(fresh)

    def infer(self, h_in: Tensor) -> Tensor:
        """h = phi(h_in W^T + b), keeping nothing; shape (n, d_l)."""
        return self.shape.activation.forward(self._affine(self._signal(h_in)))

    def forward(self, h_in: Tensor, part: Part) -> Tensor:
        """As ``infer``, keeping what this micro-batch's backward needs."""
        h_in = self._signal(h_in)
        z = self._affine(h_in)
        h = self.shape.activation.forward(z)
        self._kept[part] = _Kept(h_in=h_in, z=z, h=h, updates=self._updates)
        return h

    def score(self, output: Tensor, target: Tensor, rows: int) -> Scored:
        """The loss of one micro-batch of a batch of ``rows`` rows; output layer only."""
        scored = self._loss(output.to(self._dtype), target, rows)
        return replace(scored, gradient=self._signal(scored.gradient))

    def output_delta(self, scored: Scored, part: Part) -> Tensor:
        """delta_L = e = dLoss/dz_L, shape (n, C): the output layer always uses the exact error."""
        kept = self._kept[part]
        return self.shape.activation.backward(scored.gradient, kept.z, kept.h)

    def hidden_delta(self, message: Tensor, part: Part) -> Tensor:
        """delta_l = s_l * phi'(z_l), shape (n, d_l), from the rule's error message to this layer."""
        kept = self._kept[part]
        if self._feedback_optimizer is not None:
            self._kept[part] = replace(kept, message=message)
        self._message = message
        s = self.rule.teach(message, self._learns_with)
        if self._probed:
            self._taught = s
        delta = self.shape.activation.backward(s, kept.z, kept.h)
        if self._ledger is not None:
            self._ledger.observe(s, delta, kept.z, kept.h)
            if self.rule.is_direct and self._learns_with is not None:
                self._ledger.read_out(message, kept.h, self._learns_with)
        return delta

    def label_message(self, target: Tensor, rows: int) -> Tensor:
        """What stands in for an error message where the rule reads labels: the target / rows, (n, C)."""
        if target.dim() == 2:
            return self._signal(target / rows)
        onehot = torch.zeros(len(target), self._outputs, dtype=self._signal_dtype, device=self.device)
        return onehot.scatter_(1, target.unsqueeze(1), 1.0 / rows)

    def emit(self, boundary: int, delta: Tensor) -> Tensor:
        """The rule's error message across ``boundary``, one of ``sends_to``; a hidden layer passes on the output's."""
        if self.rule.is_direct and not self._is_output:
            return self._message
        return self.rule.emit(delta, self._w.value, self._emits_with[boundary])

    def accumulate(self, delta: Tensor, part: Part) -> None:
        """Add this micro-batch's G = delta^T h_in and g = sum of rows of delta; forget its forward."""
        kept = self._kept.pop(part)
        self._add_product(self.weight, delta, kept.h_in)
        if self._learned is not None and kept.message is not None:
            self._add_product(self._learned.master, kept.message, kept.h)
        if self.bias is not None:
            g = delta.sum(dim=0, dtype=self._dtype)
            self.bias.grad = self.bias.grad.add_(g) if self._has_gradient and self.bias.grad is not None else g
        self._has_gradient = True
        if self._ledger is not None and kept.updates < self._updates:
            self._ledger.stale(self.weight, self.bias)

    def update(self, step: int, lr: float) -> list[Half]:
        """One optimizer step with the gradient of all micro-batches so far; returns its entries in the books."""
        self._updates += 1
        if self._ledger is None:
            self._descend(lr)
            return []
        learned, optimizer = self._learned, self._feedback_optimizer
        return self._ledger.around(
            step,
            lr,
            lambda: self._descend(lr),
            weight=(self.weight, self.optimizer),
            bias=self.bias,
            learned=None if learned is None or optimizer is None else (learned.master, optimizer),
        )

    def probe_forward(self, h_in: Tensor, micro_batch: int) -> Tensor:
        """A probe's forward of one micro-batch, at the weights before the step; h, shape (n, d_l)."""
        if micro_batch == 0:
            self._true_gradients = []
        h_in = self._signal(h_in)
        z = self._affine(h_in)
        h = self.shape.activation.forward(z)
        self._probe_kept[micro_batch] = _Kept(h_in=h_in, z=z, h=h)
        return h

    def probe_backward(self, gradient: Tensor, micro_batch: int) -> Tensor | None:
        """One micro-batch of the true backward pass.

        Args:
            gradient: dLoss/dh_l, shape (n, d_l): of the loss itself at the output layer, else delta_{l+1} W_{l+1}.
            micro_batch: In order.

        Returns:
            delta_l W_l, shape (n, d_{l-1}); None at the first layer, where nobody waits for it.
        """
        kept = self._probe_kept.pop(micro_batch)
        delta = self.shape.activation.backward(gradient, kept.z, kept.h)
        product = (delta.t() @ kept.h_in).to(self._dtype)
        parts = [product] if self.bias is None else [product, delta.sum(0, dtype=self._dtype)]
        if self._true_gradients:
            parts = [so_far.add_(part) for so_far, part in zip(self._true_gradients, parts, strict=True)]
        self._true_gradients = parts
        return self.straight(delta) if self.index > 1 else None

    def straight(self, delta: Tensor) -> Tensor:
        """delta_l W_l, shape (n, d_{l-1}): what backpropagation would make of the rule's own delta."""
        return delta @ self._w.value

    def compare(self, straight: Tensor) -> None:
        """Set s_l of the last backward beside delta_{l+1} W_{l+1}, both (n, d_l): signal alignment."""
        self._cosines.append(row_cosines(self._taught, straight))

    def probed(self, step: int) -> LayerProbe:
        """This layer's alignment with the true gradient of the step, before its update."""
        signal = torch.cat(self._cosines).mean().item() if self._cosines else None
        return measure(step, self.index, self.parameters, self._true_gradients, signal)

    def _descend(self, lr: float) -> None:
        self.optimizer.step(lr)
        if self._feedback_optimizer is not None:
            self._feedback_optimizer.step(lr)
        for operand in (self._w, self._b, self._learned):
            if operand is not None:
                operand.follow()
        self._has_gradient = False

    def _add_product(self, parameter: Tensor, left: Tensor, right: Tensor) -> None:
        """Add left^T right to the parameter's gradient, or begin it in the step's first micro-batch."""
        if parameter.grad is None:
            parameter.grad = torch.empty_like(parameter)
        if left.dtype != parameter.dtype:
            product = torch.mm(left.t(), right)
            parameter.grad.add_(product) if self._has_gradient else parameter.grad.copy_(product)
        elif self._has_gradient:
            parameter.grad.addmm_(left.t(), right)
        else:
            torch.mm(left.t(), right, out=parameter.grad)

    def _affine(self, h_in: Tensor) -> Tensor:
        return torch.nn.functional.linear(h_in, self._w.value, None if self._b is None else self._b.value)

    def _signal(self, tensor: Tensor) -> Tensor:
        """In the dtype of signals."""
        return tensor.to(self._signal_dtype)

    def _matrix(self, matrix: Tensor | None) -> Tensor | None:
        return None if matrix is None else matrix.to(self.device, self._signal_dtype)

    def _initial(self, recipe: Recipe, given: tuple[Tensor, Tensor | None] | None) -> tuple[Tensor, Tensor | None]:
        if given is not None:
            weight, bias = given
            return weight.detach().to(self.device, self._dtype, copy=True), (
                None if bias is None else bias.detach().to(self.device, self._dtype, copy=True)
            )
        weight = initial_weight(recipe, self.index).to(self.device, self._dtype)
        bias = torch.zeros(self.shape.outputs, dtype=self._dtype, device=self.device) if self.shape.bias else None
        return weight, bias
