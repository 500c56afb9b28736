"""One layer's side of the books: what it measures around a step, for the halves that it has to report.

Shapes: per-neuron vectors (d_l,), float64; s, h, z, delta (n, d_l).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from distfa.core.base.optim import Optimizer
from distfa.core.base.recipe import Recipe
from distfa.core.books.ledger import Half, ends
from distfa.core.books.rounding import Rounding
from distfa.core.books.update import Fold, HalfSums, ParameterUpdate, PerNeuron, drift_of_rows, gradient_of
from distfa.core.rules.base import Rule
from distfa.core.schedule import delay


@dataclass(kw_only=True)
class _Signals:
    """The sums of a hidden layer over the micro-batches of a step, per neuron."""

    delta_z: Tensor
    s_h: Tensor
    magnitude: Tensor  # sum |s h| + |delta z|: the scale of their rounding
    square: Tensor  # sum (s h)^2 + (delta z)^2, in a mixed run


@dataclass(kw_only=True)
class _Page:
    """A layer's notes on a step so far.

    Attributes:
        due: Whether the step is entered in the books.
        drift: <W - W(at forward), G>, per row.
        sums: What a hidden layer adds up.
        read: e^T h_l; under a rule that follows shortcuts sum s h, per neuron.
        sent: <message, h_in>, and the sum of magnitudes.
        renewal: What its renewal of feedback did to the potential, per neuron.
        lr: Learning rate of its update.
        updates: What the update did to the layer's parameters, by name.
        learned: The same for feedback that is trained, by its weight's name; the teacher by the empty name.
    """

    step: int
    due: bool
    drift: Tensor
    sums: _Signals | None = None
    read: Tensor | None = None
    sent: tuple[float, float] = (0.0, 0.0)
    renewal: Tensor | None = None
    lr: float = 0.0
    updates: Mapping[str, ParameterUpdate] = field(default_factory=dict)
    learned: Mapping[str, ParameterUpdate] = field(default_factory=dict)


class LayerLedger:
    """One layer's side of the books.

    What happens in a step is noted on the step's page, in any order, and ``enter`` closes the page.

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
        self._feedback: Tensor | None = None  # B_l, or layer l's factor of it
        self._pages: dict[int, _Page] = {}  # by step
        self._delayed = delay(recipe, layer) > 0
        self._before: list[Tensor] = []  # parameters before the last update, where the next entry needs them

    def observe(self, step: int, s: Tensor, delta: Tensor, tape: Any) -> None:
        """Add one micro-batch of a hidden layer: s and h, and in a plain layer delta and z, by neuron."""
        page = self._page(step)
        if not (page.due and self._lower):
            return
        if page.sums is None:
            zero = self._nothing()
            page.sums = _Signals(delta_z=zero, s_h=zero.clone(), magnitude=zero.clone(), square=zero.clone())
        s_h = s.double() * tape.h.double()
        page.sums.s_h += self._by_neuron(s_h)
        magnitude, square = s_h.abs(), s_h.square() if self._recipe.mixed else None
        if self._spec.plain:
            delta_z = delta.double() * tape.z.double()
            page.sums.delta_z += delta_z.sum(0)
            magnitude += delta_z.abs()
            square = None if square is None else square.add_(delta_z.square())
        page.sums.magnitude += self._by_neuron(magnitude)
        if square is not None:
            page.sums.square += self._by_neuron(square)

    def add_message(self, step: int, message: Tensor, h_in: Tensor) -> None:
        """Add one micro-batch of what this layer sent down and got from below: the pairing at its upper end."""
        page = self._page(step)
        if page.due and self._pairs_only:
            product = message.double() * h_in.double()
            page.sent = page.sent[0] + product.sum().item(), page.sent[1] + product.abs().sum().item()

    def add_readout(self, step: int, message: Tensor, h: Tensor, feedback: Tensor) -> None:
        """Add one micro-batch of dfa's shadow readout, which moves at every step.

        Args:
            step: Counted from 0.
            message: e, shape (n, ..., C); with a low rank as many columns as the rank.
            h: h_l, shape (n, *shape of h_l).
            feedback: What layer l multiplies the message by, shape (columns, numbers of h_l at a position).
        """
        if not self._local:
            return
        page, self._feedback = self._page(step), feedback
        columns, numbers = feedback.shape
        product = torch.mm(message.reshape(-1, columns).t(), h.reshape(-1, numbers)).double()
        page.read = product if page.read is None else page.read.add_(product)

    def add_pairing(self, step: int, s: Tensor, h: Tensor) -> None:
        """Add one micro-batch of s and h, whose product moves the potential of fixed feedback without a matrix."""
        if self._local:
            page, product = self._page(step), self._by_neuron(s.double() * h.double())
            page.read = product if page.read is None else page.read.add_(product)

    def note_renewal(self, step: int, before: Tensor, after: Tensor, *, learned: bool) -> None:
        """Note that feedback was renewed at the start of a step: this moves the potential that this layer keeps.

        Args:
            step: Counted from 0.
            before: B_l until then, shape (C, numbers of h_l at a position).
            after: B_l from then on.
            learned: Whether B_l is learned, so that its potential is 1/2 ||B_l||^2; else it is <B_l, V_l>.
        """
        page = self._page(step)
        if not (self._local and page.due):
            return
        old, new = before.double(), after.double()
        if learned:
            page.renewal = ((new - old) * (new + old)).sum(0) / 2
        elif self._shadow is not None:
            page.renewal = ((new - old) * self._shadow).sum(0)

    def note_drift(self, step: int, optimizer: Optimizer) -> None:
        """Note that the gradient so far comes from micro-batches whose forward saw the weights before the last update.

        They come first in a step, so the last call covers all of them: it measures <W - W(at forward), G>.
        """
        page = self._page(step)
        if page.due and self._lower:
            optimizer.multiply_out()
            moved = zip(optimizer.parameters.values(), self._before, strict=True)
            page.drift = sum((self._rows(drift_of_rows(now, old)) for now, old in moved), self._nothing())

    def enter(
        self, step: int, lr: float, update: Callable[[], None], optimizer: Optimizer, feedback_optimizer: Optimizer
    ) -> list[Half]:
        """Make the update and enter it in the books; returns this layer's halves, none in a step that is not entered.

        Args:
            step: Counted from 0.
            lr: Learning rate of this update.
            update: Makes the update.
            optimizer: The optimizer of the layer's parameters.
            feedback_optimizer: That of feedback that is trained, by its weight's name; the teacher by the empty name.
        """
        trained = optimizer.parameters
        page = self._page(step)
        if page.due:
            for made_by in (optimizer, feedback_optimizer):
                made_by.multiply_out()
        del self._pages[step]
        self._move_shadow(page.read, optimizer, lr)
        next_due = self._delayed and self._lower and self._recipe.ledger.due(step + 1)
        self._before = [p.clone() for p in trained.values()] if next_due else []
        if not page.due or not (self._lower or self._upper is not None):
            update()
            return []
        page.lr = lr
        page.updates, page.learned = (
            {
                name: ParameterUpdate(p, made_by, made_by.config_at(p, lr, step))
                for name, p in made_by.parameters.items()
            }
            for made_by in (optimizer, feedback_optimizer)
        )
        update()
        halves = self._halves(page, Fold(), Fold(), Fold())
        if not (self._recipe.ledger.neurons and self._spec.plain):
            return halves
        here, below = self._spec.outputs, self._spec.inputs
        apart = PerNeuron(here, rows=True), PerNeuron(below, rows=False), PerNeuron(here, rows=False)
        neurons = self._halves(page, *apart)
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

    def _halves(self, page: _Page, incoming: Fold, outgoing: Fold, local: Fold) -> list[Half]:
        """The halves this layer reports: for its own neurons, for those of the layer below, for its potential."""
        halves = []
        if self._lower and page.sums is not None:
            halves.append(self._lower_half(page, page.sums, incoming))
        if self._upper is not None:
            halves.append(self._upper_half(page, self._upper, outgoing))
        if self._local and page.sums is not None:
            taught = page.learned.get("")
            half = (
                self._shadow_half(page, page.sums, local)
                if taught is None
                else self._learned_half(page, self._layer, taught, local)
            )
            made_anew = 0.0 if page.renewal is None else local.vector(page.renewal)
            halves.append(replace(half, change=half.change + made_anew, renewal=made_anew))
        return halves

    def _lower_half(self, page: _Page, sums: _Signals, fold: Fold) -> Half:
        """The growth of the layer's weights; non-homogeneity is measured, or it is by definition what is left over."""
        lr, updates = page.lr, page.updates
        total, staleness = self._nothing_yet(fold), -lr * fold.vector(page.drift)
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
            step=page.step,
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

    def _upper_half(self, page: _Page, boundary: int, fold: Fold) -> Half:
        """The growth of the potential that this layer's weight holds for the layer below; else the pairing alone."""
        lr = page.lr
        if self._pairs_only:
            exchange, magnitude = lr * page.sent[0], lr * page.sent[1]
            rounding = self._rounding.of_products(magnitude, (lr * magnitude) ** 2)
            return Half(
                boundary=boundary,
                step=page.step,
                end="upper",
                level=None,
                change=-exchange,
                exchange=exchange,
                exchange_rounding=rounding,
            )
        rule, name = self._rule, self._spec.weights[0].name
        if name in page.learned:
            return self._learned_half(page, boundary, page.learned[name], fold)
        w, total = page.updates[name], self._nothing_yet(fold)
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
        return replace(self._potential_half(page, boundary, w, total), angle_degrees=angle, ratio=ratio)

    def _learned_half(self, page: _Page, boundary: int, fb: ParameterUpdate, fold: Fold) -> Half:
        """kp and dkp: Phi = 1/2 ||B||^2, with B's own update and optimizer."""
        total = self._nothing_yet(fold)
        for block in fb.blocks():
            total.add(block, page.lr)
        return self._potential_half(page, boundary, fb, total)

    def _potential_half(self, page: _Page, boundary: int, update: ParameterUpdate, total: HalfSums) -> Half:
        lr = page.lr
        return Half(
            boundary=boundary,
            step=page.step,
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

    def _shadow_half(self, page: _Page, sums: _Signals, fold: Fold) -> Half:
        """dfa's other boundaries, at layer l: Phi = <B_l, V_l>, dV_l = -lr e^T h_l, so dPhi = -lr sum s h."""
        exchange = page.lr * fold.vector(sums.s_h)
        return Half(
            boundary=self._layer,
            step=page.step,
            end="upper",
            level=fold.vector(self._potential()),
            change=-exchange,
            exchange=exchange,
        )

    # -- parts --------------------------------------------------------------------------------

    def _page(self, step: int) -> _Page:
        """The page of a step; every ``ledger.every`` steps one is entered in the books."""
        if step not in self._pages:
            self._pages[step] = _Page(step=step, due=self._recipe.ledger.due(step), drift=self._nothing())
        return self._pages[step]

    def _nothing_yet(self, fold: Fold) -> HalfSums:
        return HalfSums(fold=fold, rounded=self._recipe.mixed)

    def _nothing(self) -> Tensor:
        neurons = self._spec.outputs if self._spec.plain else self._spec.neurons
        return torch.zeros(neurons, dtype=torch.float64, device=self._device)

    def _by_neuron(self, signal: Tensor) -> Tensor:
        """Sums over samples of h_l's numbers, by neuron or channel, where the law is theirs; else over all."""
        return signal.reshape(len(signal), len(self._nothing()), -1).sum((0, 2))

    def _rows(self, per_row: Tensor) -> Tensor:
        """One number for every row of a parameter, in the form that ``_by_neuron`` gives."""
        return per_row if len(per_row) == len(self._nothing()) else per_row.sum().reshape(1)

    def _move_shadow(self, read: Tensor | None, optimizer: Optimizer, lr: float) -> None:
        """Move V by -lr e^T h, whatever the optimizer makes of the gradient; at the output layer e^T h is G."""
        if not self._rule.is_direct:
            return
        if self.matrix is not None:
            optimizer.multiply_out()
            weight = optimizer.parameters[self._spec.weights[0].name]
            self._feedback, read = self.matrix, gradient_of(weight).double()
        if read is not None:
            moved = read * -lr
            self._shadow = moved if self._shadow is None else self._shadow.add_(moved)

    def _potential(self) -> Tensor:
        """<B_l[:,i], V_l[:,i]> of every neuron, shape (d_l,); of shortcuts it is summed up without their matrix."""
        if self._shadow is not None and self._rule.follows_shortcuts:
            return self._shadow
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
