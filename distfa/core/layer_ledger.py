"""One layer's side of the books: what it measures around a step, for the halves that are its to report.

Shapes: per-neuron vectors (d_l,), float64; s, h, z, delta (n, d_l).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distfa.core.ledger import Half, ends
from distfa.core.optim import Optimizer
from distfa.core.recipe import Recipe
from distfa.core.rules.base import Rule
from distfa.core.schedule import delay
from distfa.core.update import Fold, Number, PerNeuron, Sums, Update, drift, gradient_of

_MARGIN = 8.0  # standard deviations of rounding that pass without remark


@dataclass(kw_only=True)
class _Signals:
    """What a hidden layer adds up over the micro-batches of a step, per neuron."""

    delta_z: Tensor
    s_h: Tensor
    magnitude: Tensor  # sum |s h| + |delta z|: the scale of their rounding
    square: Tensor  # sum (s h)^2 + (delta z)^2, in a mixed run


class LayerLedger:
    """One layer's side of the books; ``Layer`` calls it around every step.

    Args:
        recipe: The run's.
        layer: Whose side this is.
        rule: The run's.
        weight: W_l; gives device and dtype.
    """

    def __init__(self, recipe: Recipe, layer: int, rule: Rule, weight: Tensor) -> None:
        self._recipe, self._layer, self._rule = recipe, layer, rule
        self._epsilon = torch.finfo(recipe.dtype).eps
        duties = [(b, end) for b in recipe.network.boundaries for l, end in ends(recipe, rule, b) if l == layer]
        self._lower = any(end == "lower" for _, end in duties)
        self._local = any(end == "upper" and b == layer for b, end in duties)
        self._upper = next((b for b, end in duties if end == "upper" and b < layer), None)
        fixed = self._fixed(rule)
        self._matrix = None if fixed is None else fixed.to(weight.device, recipe.signal_dtype).double()
        self._shadow: Tensor | None = None  # V_l, once it has moved, float64
        self._read: Tensor | None = None  # e^T h_l of this step so far
        self._feedback: Tensor | None = None  # B_l, or the factor of it that layer l has
        self._sums: _Signals | None = None
        self._due = False
        self._delayed = delay(recipe, layer) > 0
        self._before: list[Tensor] = []  # W_l and b_l before the last update, where the next entry needs them
        self._drift = self._nothing(weight)

    def begin(self, step: int) -> None:
        """A step's backwards begin; it is entered in the books where the cadence says so."""
        self._due = self._recipe.ledger_due(step)
        self._sums = self._read = None
        if self._due:
            self._drift.zero_()

    def observe(self, s: Tensor, delta: Tensor, z: Tensor, h: Tensor) -> None:
        """Add one micro-batch of a hidden layer; all (n, d_l)."""
        if not (self._due and self._lower):
            return
        if self._sums is None:
            zero = torch.zeros(s.shape[1], dtype=torch.float64, device=s.device)
            self._sums = _Signals(delta_z=zero, s_h=zero.clone(), magnitude=zero.clone(), square=zero.clone())
        s_h, delta_z = s.double() * h.double(), delta.double() * z.double()
        self._sums.s_h += s_h.sum(0)
        self._sums.delta_z += delta_z.sum(0)
        self._sums.magnitude += s_h.abs().sum(0) + delta_z.abs().sum(0)
        if self._recipe.mixed:
            self._sums.square += s_h.square().sum(0) + delta_z.square().sum(0)

    def read_out(self, message: Tensor, h: Tensor, feedback: Tensor) -> None:
        """One micro-batch of dfa's shadow readout, which moves at every step.

        Args:
            message: e, shape (n, C), or as many columns as the rank.
            h: Shape (n, d_l).
            feedback: What layer l multiplies the message by, shape (columns, d_l).
        """
        if not self._local:
            return
        self._feedback = feedback
        product = torch.mm(message.t(), h).double()
        self._read = product if self._read is None else self._read.add_(product)

    def stale(self, weight: Tensor, bias: Tensor | None) -> None:
        """The gradient so far is of micro-batches whose forward saw the weights before the last update.

        They come first in a step, so the last call has all of them: <W - W(at forward), G> of those.
        """
        if not (self._due and self._lower):
            return
        parameters = [weight] if bias is None else [weight, bias]
        self._drift = torch.stack([drift(now, old) for now, old in zip(parameters, self._before, strict=True)]).sum(0)

    def around(
        self,
        step: int,
        lr: float,
        update: Callable[[], None],
        *,
        weight: tuple[Tensor, Optimizer],
        bias: Tensor | None,
        learned: tuple[Tensor, Optimizer] | None,
    ) -> list[Half]:
        """Carry out the update and enter it; returns this layer's halves, none off the cadence.

        Args:
            step: Counted from 0.
            lr: Learning rate of this update.
            update: Makes the update.
            weight: W_l and its optimizer.
            bias: b_l.
            learned: B and its optimizer, for a rule that learns its feedback.
        """
        config = replace(self._recipe.optimizer, lr=lr)
        self._move_shadow(weight[0], lr)
        next_due = self._delayed and self._lower and self._recipe.ledger_due(step + 1)
        self._before = [p.clone() for p in (weight[0], bias) if p is not None] if next_due else []
        if not self._due or not (self._lower or self._upper is not None):
            update()
            return []
        w = Update(*weight, config)
        b = None if bias is None else Update(bias, weight[1], config)
        fb = None if learned is None else Update(*learned, config)
        update()
        halves = self._halves(step, lr, w, b, fb, Fold(), Fold(), Fold())
        if not self._recipe.ledger_neurons:
            return halves
        below, here = w.parameter.shape[1], w.parameter.shape[0]
        apart = PerNeuron(here, rows=True), PerNeuron(below, rows=False), PerNeuron(here, rows=False)
        neurons = self._halves(step, lr, w, b, fb, *apart)
        return [replace(half, neurons=each) for half, each in zip(halves, neurons, strict=True)]

    # -- halves -------------------------------------------------------------------------------

    def _halves(
        self,
        step: int,
        lr: float,
        w: Update,
        b: Update | None,
        fb: Update | None,
        incoming: Fold,
        outgoing: Fold,
        local: Fold,
    ) -> list[Half]:
        """The halves this layer reports: of its own neurons, of those below it, of the potential it keeps itself."""
        halves = []
        if self._lower and self._sums is not None:
            halves.append(self._lower_half(step, lr, w, b, self._sums, incoming))
        if self._upper is not None:
            halves.append(self._upper_half(step, lr, self._upper, w, outgoing))
        if self._local and self._sums is not None:
            learned_half = self._learned_half(step, lr, fb, local) if fb is not None else None
            halves.append(learned_half or self._shadow_half(step, lr, self._sums, local))
        return halves

    def _lower_half(self, step: int, lr: float, w: Update, b: Update | None, sums: _Signals, fold: Fold) -> Half:
        total, staleness = self._nothing_yet(fold), -lr * fold.vector(self._drift)
        for parameter in (w,) if b is None else (w, b):
            for block in parameter.blocks():
                total.add(block, lr)
        s_h = lr * fold.vector(sums.s_h)
        nonhomogeneity = s_h - lr * fold.vector(sums.delta_z)
        signals = self._product_rounding(lr * fold.vector(sums.magnitude), lr**2 * fold.vector(sums.square))
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
            rounding=self._rounding(w.numbers, lr, total) + signals,
            exchange_rounding=signals,
        )

    def _upper_half(self, step: int, lr: float, boundary: int, w: Update, fold: Fold) -> Half:
        rule, total = self._rule, self._nothing_yet(fold)
        for block in w.blocks():
            before, fixed = block.before.view(block.shape), None if self._matrix is None else self._matrix[block.rows]
            if rule.is_direct and fixed is not None:
                total.add_product(block, lr, fixed.flatten())
                continue
            after = before + block.change.view(block.shape)
            field = rule.field(before, fixed).flatten()
            phis = (fold.vector(rule.phi(weight, fixed)) for weight in (before, after))
            total.add_field(block, lr, field, *phis)
        if rule.is_direct:  # dfa's last boundary: Phi = <B, V>, dV = -lr G_L, the move of W_L under plain SGD
            total.level, total.change = fold.vector(self._potential()), -total.exchange
        angle, ratio = self._alignment(w.parameter)
        return replace(self._potential_half(step, lr, boundary, w, total), angle_degrees=angle, ratio=ratio)

    def _learned_half(self, step: int, lr: float, fb: Update, fold: Fold) -> Half:
        """kp: Phi = 1/2 ||B||^2, with B's own update and optimizer."""
        total = self._nothing_yet(fold)
        for block in fb.blocks():
            total.add(block, lr)
        return self._potential_half(step, lr, self._layer, fb, total)

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
            rounding=self._rounding(update.numbers, lr, total),
            exchange_rounding=self._product_rounding(lr * total.product, lr**2 * total.product_square),
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

    # -- rounding -----------------------------------------------------------------------------

    def _rounding(self, numbers: int, lr: float, total: Sums) -> Number:
        """How large a half's residual may be by rounding.

        Each of the parameter's numbers is rounded once per step, by up to eps/2 of itself, which weighs
        in with W or B; independent roundings add up as the root of their number. The optimizer rounds
        relative to the update, matrix products relative to their terms.
        """
        stored = self._epsilon * total.size / math.sqrt(max(numbers, 1))
        products = self._product_rounding(lr * total.product, lr**2 * total.product_square)
        return _MARGIN * (stored + self._epsilon * total.update) + products

    def _product_rounding(self, magnitude: Number, square: Number) -> Number:
        """How far a sum of products of signals may be off by rounding.

        eps of the dtype sums are made in, times the root of the longest sum, relative to the sum of magnitudes; and
        in a mixed run eps/2 of bfloat16 for every signal, weight and gradient: the root of a sum of squares.
        """
        longest = max(self._recipe.batch_size, *self._recipe.network.sizes)
        rounded = torch.finfo(self._recipe.signal_dtype).eps / 2 if self._recipe.mixed else 0.0
        return _MARGIN * (self._epsilon * math.sqrt(longest) * magnitude + rounded * square**0.5)

    # -- parts --------------------------------------------------------------------------------

    def _nothing_yet(self, fold: Fold) -> Sums:
        return Sums(fold=fold, rounded=self._recipe.mixed)

    def _fixed(self, rule: Rule) -> Tensor | None:
        if self._upper is None:
            return None
        return rule.direct_feedback(self._upper) if rule.is_direct else rule.fixed(self._upper)

    @staticmethod
    def _nothing(weight: Tensor) -> Tensor:
        return torch.zeros(len(weight), dtype=torch.float64, device=weight.device)

    def _move_shadow(self, weight: Tensor, lr: float) -> None:
        """V moves by -lr e^T h, whatever the optimizer makes of the gradient; at the output layer that is G."""
        if not self._rule.is_direct:
            return
        if self._matrix is not None:
            self._feedback, self._read = self._matrix, gradient_of(weight).double()
        if self._read is not None:
            moved = self._read * -lr
            self._shadow = moved if self._shadow is None else self._shadow.add_(moved)

    def _potential(self) -> Tensor:
        """<B_l[:,i], V_l[:,i]> of every neuron, shape (d_l,)."""
        if self._feedback is None or self._shadow is None:
            raise ValueError("the shadow readout is asked for before its first step")
        return (self._feedback.double() * self._shadow).sum(0)

    def _alignment(self, weight: Tensor) -> tuple[float | None, float | None]:
        """(angle in degrees, ||B|| / ||W||) between vec(W) and what stands in its place, to W's precision."""
        if self._matrix is None:
            return None, None
        feedback = self._rule.field(weight, self._matrix.to(weight.dtype)).flatten()
        norms = (weight.norm() * feedback.norm()).item()
        cosine = (weight.flatten() @ feedback).item() / norms if norms else 0.0
        ratio = (feedback.norm() / weight.norm()).item() if norms else 0.0
        return math.degrees(math.acos(max(-1.0, min(1.0, cosine)))), ratio
