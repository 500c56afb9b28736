"""One layer's side of the books: what it measures around a step, for the halves that it has to report.

Shapes: per-neuron vectors (d_l,), float64; s, h, z, delta (n, d_l).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from distfa.core.base.optim import Optimizer
from distfa.core.base.recipe import Recipe
from distfa.core.books.ledger import Half, ends
from distfa.core.books.rounding import Rounding
from distfa.core.books.update import Fold, PerNeuron, Sums, Update, drift, gradient_of
from distfa.core.rules.base import Rule
from distfa.core.schedule import delay


@dataclass(kw_only=True)
class _Signals:
    """The sums of a hidden layer over the micro-batches of a step, per neuron."""

    delta_z: Tensor
    s_h: Tensor
    magnitude: Tensor  # sum |s h| + |delta z|: the scale of their rounding
    square: Tensor  # sum (s h)^2 + (delta z)^2, in a mixed run


class LayerLedger:
    """One layer's side of the books; ``Layer`` calls it around every step.

    Args:
        recipe: The run's.
        layer: The layer whose side this is.
        rule: The run's.
        matrix: The matrix that the potential of the boundary below is measured with, row for row with this layer's
            weight, float64; None where the weight alone is enough, or this layer keeps no potential.
        device: Where the layer computes.

    Attributes:
        matrix: As given.
    """

    def __init__(
        self, recipe: Recipe, layer: int, rule: Rule, matrix: Tensor | None, device: torch.device | str
    ) -> None:
        self._recipe, self._layer, self._rule, self._device = recipe, layer, rule, device
        self._spec = recipe.network[layer]
        self._rounding = Rounding(recipe)
        duties = [(b, end) for b in recipe.network.boundaries for l, end in ends(recipe, rule, b) if l == layer]
        self._lower = any(end == "lower" for _, end in duties)
        self._local = any(end == "upper" and b == layer for b, end in duties)
        self._upper = next((b for b, end in duties if end == "upper" and b < layer), None)
        self.matrix = matrix
        self._pairs_only = self._upper is not None and not rule.is_direct and not self._spec.linear_in
        self._shadow: Tensor | None = None  # V_l, once it has moved, float64
        self._read: Tensor | None = None  # e^T h_l of this step so far
        self._feedback: Tensor | None = None  # B_l, or layer l's factor of it
        self._sums: _Signals | None = None
        self._sent = [0.0, 0.0]  # <message, h_in> of this step so far, and the sum of magnitudes
        self._renewal: tuple[int, Tensor] | None = None  # (step, what its renewal did to the potential, per neuron)
        self._due = False
        self._delayed = delay(recipe, layer) > 0
        self._before: list[Tensor] = []  # parameters before the last update, where the next entry needs them
        self._drift = self._nothing()

    def begin(self, step: int) -> None:
        """The backwards of a step begin; every ``ledger.every`` steps one is entered in the books."""
        self._due = self._recipe.ledger.due(step)
        self._sums = self._read = None
        self._sent = [0.0, 0.0]
        if self._due:
            self._drift = self._nothing()

    def observe(self, s: Tensor, delta: Tensor, tape: Any) -> None:
        """Add one micro-batch of a hidden layer: s and h, and in a plain layer delta and z, by neuron."""
        if not (self._due and self._lower):
            return
        if self._sums is None:
            zero = self._nothing()
            self._sums = _Signals(delta_z=zero, s_h=zero.clone(), magnitude=zero.clone(), square=zero.clone())
        s_h = s.double() * tape.h.double()
        self._sums.s_h += self._by_neuron(s_h)
        magnitude, square = s_h.abs(), s_h.square() if self._recipe.mixed else None
        if self._spec.plain:
            delta_z = delta.double() * tape.z.double()
            self._sums.delta_z += delta_z.sum(0)
            magnitude += delta_z.abs()
            square = None if square is None else square.add_(delta_z.square())
        self._sums.magnitude += self._by_neuron(magnitude)
        if square is not None:
            self._sums.square += self._by_neuron(square)

    def sent(self, message: Tensor, h_in: Tensor) -> None:
        """Add one micro-batch of what this layer sent down and got from below: the pairing at its upper end."""
        if self._due and self._pairs_only:
            product = message.double() * h_in.double()
            self._sent[0] += product.sum().item()
            self._sent[1] += product.abs().sum().item()

    def read_out(self, message: Tensor, h: Tensor, feedback: Tensor) -> None:
        """One micro-batch of dfa's shadow readout, which moves at every step.

        Args:
            message: e, shape (n, ..., C); with a low rank as many columns as the rank.
            h: h_l, shape (n, *shape of h_l).
            feedback: What layer l multiplies the message by, shape (columns, numbers of h_l at a position).
        """
        if not self._local:
            return
        self._feedback = feedback
        columns, numbers = feedback.shape
        product = torch.mm(message.reshape(-1, columns).t(), h.reshape(-1, numbers)).double()
        self._read = product if self._read is None else self._read.add_(product)

    def renewed(self, step: int, before: Tensor, after: Tensor, *, learned: bool) -> None:
        """Note that feedback was renewed at the start of a step: this moves the potential that this layer keeps.

        Args:
            step: Counted from 0.
            before: B_l until then, shape (C, numbers of h_l at a position).
            after: B_l from then on.
            learned: Whether B_l is learned, so that its potential is 1/2 ||B_l||^2; else it is <B_l, V_l>.
        """
        if not (self._local and self._recipe.ledger.due(step)):
            return
        old, new = before.double(), after.double()
        if learned:
            self._renewal = step, ((new - old) * (new + old)).sum(0) / 2
        elif self._shadow is not None:
            self._renewal = step, ((new - old) * self._shadow).sum(0)

    def stale(self, parameters: list[Tensor]) -> None:
        """Note that the gradient so far comes from micro-batches whose forward saw the weights before the last update.

        They come first in a step, so the last call covers all of them: it measures <W - W(at forward), G>.
        """
        if self._due and self._lower:
            self._drift = sum(
                (self._rows(drift(now, old)) for now, old in zip(parameters, self._before, strict=True)),
                self._nothing(),
            )

    def around(
        self,
        step: int,
        lr: float,
        update: Callable[[], None],
        *,
        trained: Mapping[str, Tensor],
        optimizer: Optimizer,
        learned: Mapping[str, Tensor],
        feedback_optimizer: Optimizer,
    ) -> list[Half]:
        """Make the update and enter it in the books; returns this layer's halves, none in a step that is not entered.

        Args:
            step: Counted from 0.
            lr: Learning rate of this update.
            update: Makes the update.
            trained: The layer's parameters.
            optimizer: The optimizer of ``trained``.
            learned: Feedback that is trained, by its weight's name; the teacher by the empty name.
            feedback_optimizer: The optimizer of ``learned``.
        """
        self._move_shadow(trained, lr)
        next_due = self._delayed and self._lower and self._recipe.ledger.due(step + 1)
        self._before = [p.clone() for p in trained.values()] if next_due else []
        if not self._due or not (self._lower or self._upper is not None):
            update()
            return []
        updates = {name: Update(p, optimizer, optimizer.settings(p, lr, step)) for name, p in trained.items()}
        kept = {
            name: Update(p, feedback_optimizer, feedback_optimizer.settings(p, lr, step)) for name, p in learned.items()
        }
        update()
        halves = self._halves(step, lr, updates, kept, Fold(), Fold(), Fold())
        if not (self._recipe.ledger.neurons and self._spec.plain):
            return halves
        here, below = self._spec.outputs, self._spec.inputs
        apart = PerNeuron(here, rows=True), PerNeuron(below, rows=False), PerNeuron(here, rows=False)
        neurons = self._halves(step, lr, updates, kept, *apart)
        return [replace(half, neurons=each) for half, each in zip(halves, neurons, strict=True)]

    def state_dict(self) -> dict[str, Tensor]:
        """The state that the books carry from step to step: the shadow readout."""
        found = {"shadow": self._shadow, "feedback": self._feedback}
        found |= {f"before.{i}": p for i, p in enumerate(self._before)}
        return {name: value for name, value in found.items() if value is not None}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on where ``state_dict`` was taken."""
        self._shadow, self._feedback = state.get("shadow"), state.get("feedback")
        self._before = [state[f"before.{i}"] for i in range(sum(name.startswith("before.") for name in state))]

    # -- halves -------------------------------------------------------------------------------

    def _halves(
        self,
        step: int,
        lr: float,
        updates: Mapping[str, Update],
        learned: Mapping[str, Update],
        incoming: Fold,
        outgoing: Fold,
        local: Fold,
    ) -> list[Half]:
        """The halves this layer reports: for its own neurons, for those of the layer below, for its potential."""
        halves = []
        if self._lower and self._sums is not None:
            halves.append(self._lower_half(step, lr, updates, self._sums, incoming))
        if self._upper is not None:
            halves.append(self._upper_half(step, lr, self._upper, updates, learned, outgoing))
        if self._local and self._sums is not None:
            taught = learned.get("")
            half = (
                self._shadow_half(step, lr, self._sums, local)
                if taught is None
                else self._learned_half(step, lr, self._layer, taught, local)
            )
            made, by = self._renewal or (-1, self._nothing())
            made_anew = local.vector(by) if made == step else 0.0
            halves.append(replace(half, change=half.change + made_anew, renewal=made_anew))
        return halves

    def _lower_half(self, step: int, lr: float, updates: Mapping[str, Update], sums: _Signals, fold: Fold) -> Half:
        """The growth of the layer's weights; non-homogeneity is measured, or it is by definition what is left over."""
        total, staleness = self._nothing_yet(fold), -lr * fold.vector(self._drift)
        for update in updates.values():
            for block in update.blocks():
                total.add(block, lr)
        s_h = lr * fold.vector(sums.s_h)
        if self._spec.plain:
            nonhomogeneity = s_h - lr * fold.vector(sums.delta_z)
        else:
            nonhomogeneity = 0.0 if self._spec.lawful else s_h - total.exchange - staleness
        signals = self._rounding.of_products(lr * fold.vector(sums.magnitude), lr**2 * fold.vector(sums.square))
        decaying = max(
            (u.config for u in updates.values()), key=lambda c: c.weight_decay, default=self._recipe.optimizer
        )
        numbers, alike = next((u.numbers for u in updates.values()), 1), 0.0
        if not self._spec.plain:
            # A normalisation starts as all ones, and Adam's first step moves all by the same amount: their roundings do
            # not cancel.
            numbers = self._spec.trainable
            vectors = [u.parameter.double() for u in updates.values() if u.parameter.dim() < 2]
            alike = self._rounding.epsilon / 2 * sum(vector.square().sum().item() for vector in vectors)
        return Half(
            boundary=self._layer,
            step=step,
            end="lower",
            level=total.level,
            change=total.change,
            second_order=total.second,
            optimizer=total.optimizer,
            nonhomogeneity=nonhomogeneity,
            staleness=staleness,
            exchange=s_h,
            residual=total.change - total.second - total.optimizer - nonhomogeneity - staleness + s_h,
            rounding=self._rounding.of_update(numbers, lr, total, decaying) + signals + alike,
            exchange_rounding=signals,
        )

    def _upper_half(
        self,
        step: int,
        lr: float,
        boundary: int,
        updates: Mapping[str, Update],
        learned: Mapping[str, Update],
        fold: Fold,
    ) -> Half:
        """The growth of the potential that this layer's weight holds for the layer below; else the pairing alone."""
        if self._pairs_only:
            exchange, magnitude = lr * self._sent[0], lr * self._sent[1]
            rounding = self._rounding.of_products(magnitude, (lr * magnitude) ** 2)
            return Half(
                boundary=boundary,
                step=step,
                end="upper",
                level=None,
                change=-exchange,
                exchange=exchange,
                exchange_rounding=rounding,
            )
        rule, name = self._rule, self._spec.weights[0].name
        if name in learned:
            return self._learned_half(step, lr, boundary, learned[name], fold)
        w, total = updates[name], self._nothing_yet(fold)
        for block in w.blocks():
            before = block.before.view(block.shape[0], -1)
            fixed = None if self.matrix is None else self.matrix[block.rows]
            if rule.is_direct and fixed is not None:
                total.add_product(block, lr, fixed.flatten())
                continue
            after = before + block.change.view(before.shape)
            field = rule.field(before, fixed).flatten()
            phis = (fold.vector(rule.phi(weight, fixed)) for weight in (before, after))
            total.add_field(block, lr, field, *phis)
        if rule.is_direct:  # dfa's last boundary: Phi = <B, V>, dV = -lr G_L, the move of W_L under plain SGD
            total.level, total.change = fold.vector(self._potential()), -total.exchange
        angle, ratio = self._alignment(w.parameter)
        return replace(self._potential_half(step, lr, boundary, w, total), angle_degrees=angle, ratio=ratio)

    def _learned_half(self, step: int, lr: float, boundary: int, fb: Update, fold: Fold) -> Half:
        """kp and dkp: Phi = 1/2 ||B||^2, with B's own update and optimizer."""
        total = self._nothing_yet(fold)
        for block in fb.blocks():
            total.add(block, lr)
        return self._potential_half(step, lr, boundary, fb, total)

    def _potential_half(self, step: int, lr: float, boundary: int, update: Update, total: Sums) -> Half:
        return Half(
            boundary=boundary,
            step=step,
            end="upper",
            level=total.level,
            change=total.change,
            second_order=total.second,
            optimizer=total.optimizer,
            exchange=total.exchange,
            residual=total.change - total.second - total.optimizer + total.exchange,
            rounding=self._rounding.of_update(update.numbers, lr, total, update.config),
            exchange_rounding=self._rounding.of_products(lr * total.product, lr**2 * total.product_square),
        )

    def _shadow_half(self, step: int, lr: float, sums: _Signals, fold: Fold) -> Half:
        """dfa's other boundaries, at layer l: Phi = <B_l, V_l>, dV_l = -lr e^T h_l, so dPhi = -lr sum s h."""
        exchange = lr * fold.vector(sums.s_h)
        return Half(
            boundary=self._layer,
            step=step,
            end="upper",
            level=fold.vector(self._potential()),
            change=-exchange,
            exchange=exchange,
        )

    # -- parts --------------------------------------------------------------------------------

    def _nothing_yet(self, fold: Fold) -> Sums:
        return Sums(fold=fold, rounded=self._recipe.mixed)

    def _nothing(self) -> Tensor:
        neurons = self._spec.outputs if self._spec.plain else self._spec.neurons
        return torch.zeros(neurons, dtype=torch.float64, device=self._device)

    def _by_neuron(self, signal: Tensor) -> Tensor:
        """Sums over samples of h_l's numbers, by neuron or channel, where the law is theirs; else over all."""
        return signal.reshape(len(signal), len(self._nothing()), -1).sum((0, 2))

    def _rows(self, per_row: Tensor) -> Tensor:
        """One number for every row of a parameter, in the form that ``_by_neuron`` gives."""
        return per_row if len(per_row) == len(self._nothing()) else per_row.sum().reshape(1)

    def _move_shadow(self, trained: Mapping[str, Tensor], lr: float) -> None:
        """Move V by -lr e^T h, whatever the optimizer makes of the gradient; at the output layer e^T h is G."""
        if not self._rule.is_direct:
            return
        if self.matrix is not None:
            self._feedback, self._read = self.matrix, gradient_of(trained[self._spec.weights[0].name]).double()
        if self._read is not None:
            moved = self._read * -lr
            self._shadow = moved if self._shadow is None else self._shadow.add_(moved)

    def _potential(self) -> Tensor:
        """<B_l[:,i], V_l[:,i]> of every neuron, shape (d_l,)."""
        if self._feedback is None or self._shadow is None:
            raise ValueError("the shadow readout was requested before its first step")
        return (self._feedback.double() * self._shadow).sum(0)

    def _alignment(self, weight: Tensor) -> tuple[float | None, float | None]:
        """(angle in degrees, ||B|| / ||W||) of vec(W) and what takes its place, to W's precision."""
        if self.matrix is None:
            return None, None
        feedback = self._rule.field(weight.flatten(1), self.matrix.to(weight.dtype)).flatten()
        norms = (weight.norm() * feedback.norm()).item()
        cosine = (weight.flatten() @ feedback).item() / norms if norms else 0.0
        ratio = (feedback.norm() / weight.norm()).item() if norms else 0.0
        return math.degrees(math.acos(max(-1.0, min(1.0, cosine)))), ratio
