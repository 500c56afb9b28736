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
from distfa.core.recipe import Recipe
from distfa.core.rules.base import Rule
from distfa.core.update import Sums, Update, gradient_of

_MARGIN = 8.0  # standard deviations of rounding that pass without remark


@dataclass(kw_only=True)
class _Signals:
    """What a hidden layer adds up over the micro-batches of a step, per neuron."""

    delta_z: Tensor
    s_h: Tensor
    magnitude: Tensor  # sum |s h| + |delta z|: the scale of their rounding


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
        self._matrix = None if fixed is None else fixed.to(weight.device, weight.dtype).double()
        width = weight.shape[0] if self._upper is None else weight.shape[1]
        self._shadow = torch.zeros(width, dtype=torch.float64, device=weight.device)
        self._sums: _Signals | None = None
        self._due = False

    def begin(self, step: int) -> None:
        """A step begins; it is entered in the books where the cadence says so."""
        every = self._recipe.ledger_every
        self._due = bool(every) and step % every == 0
        self._sums = None

    def observe(self, s: Tensor, delta: Tensor, z: Tensor, h: Tensor) -> None:
        """Add one micro-batch of a hidden layer; all (n, d_l)."""
        if self._sums is None:
            zero = torch.zeros(s.shape[1], dtype=torch.float64, device=s.device)
            self._sums = _Signals(delta_z=zero, s_h=zero.clone(), magnitude=zero.clone())
        if self._due and self._lower:
            s_h, delta_z = s.double() * h.double(), delta.double() * z.double()
            self._sums.s_h += s_h.sum(0)
            self._sums.delta_z += delta_z.sum(0)
            self._sums.magnitude += s_h.abs().sum(0) + delta_z.abs().sum(0)
        elif self._rule.is_direct and self._local:
            self._sums.s_h += (s * h).sum(0).double()  # the shadow readout moves at every step

    def around(
        self,
        step: int,
        update: Callable[[], None],
        *,
        weight: tuple[Tensor, torch.optim.Optimizer],
        bias: Tensor | None,
        learned: tuple[Tensor, torch.optim.Optimizer] | None,
    ) -> list[Half]:
        """Carry out the update and enter it; returns this layer's halves, none off the cadence.

        Args:
            step: Counted from 0.
            update: Makes the update.
            weight: W_l and its optimizer.
            bias: b_l.
            learned: B and its optimizer, for a rule that learns its feedback.
        """
        config = self._recipe.optimizer
        self._move_shadow(weight[0])
        if not self._due or not (self._lower or self._upper is not None):
            update()
            return []
        w = Update(*weight, config)
        b = None if bias is None else Update(bias, weight[1], config)
        fb = None if learned is None else Update(*learned, config)
        update()
        halves = []
        if self._lower and self._sums is not None:
            halves.append(self._lower_half(step, w, b, self._sums))
        if self._upper is not None:
            halves.append(self._upper_half(step, self._upper, w))
        if self._local and self._sums is not None:
            halves.append(self._learned_half(step, fb) if fb is not None else self._shadow_half(step, self._sums))
        return halves

    # -- halves -------------------------------------------------------------------------------

    def _lower_half(self, step: int, w: Update, b: Update | None, sums: _Signals) -> Half:
        lr, total = self._recipe.optimizer.lr, Sums()
        for parameter in (w,) if b is None else (w, b):
            for block in parameter.blocks():
                total.add(block, lr)
        s_h = lr * sums.s_h.sum().item()
        nonhomogeneity = s_h - lr * sums.delta_z.sum().item()
        magnitude = lr * sums.magnitude.sum().item()
        return Half(
            boundary=self._layer,
            step=step,
            end="lower",
            level=total.level,
            change=total.change,
            second_order=total.second,
            optimizer=total.optimizer,
            nonhomogeneity=nonhomogeneity,
            exchange=s_h,
            residual=total.change - total.second - total.optimizer - nonhomogeneity + s_h,
            rounding=self._rounding(w.numbers, total) + self._product_rounding(magnitude),
            exchange_rounding=self._product_rounding(magnitude),
        )

    def _upper_half(self, step: int, boundary: int, w: Update) -> Half:
        rule, lr, total = self._rule, self._recipe.optimizer.lr, Sums()
        for block in w.blocks():
            before, fixed = block.before.view(block.shape), None if self._matrix is None else self._matrix[block.rows]
            if rule.is_direct and fixed is not None:
                total.exchange += lr * (fixed.flatten() @ block.gradient).item()
                total.product += (fixed.norm() * block.gradient.norm()).item()
                continue
            after = before + block.change.view(block.shape)
            field = rule.field(before, fixed).flatten()
            phis = (rule.phi(weight, fixed).sum().item() for weight in (before, after))
            total.add_field(block, lr, field, *phis)
        if rule.is_direct:  # dfa's last boundary: Phi = <B, V>, dV = -lr G_L, the move of W_L under plain SGD
            total.level, total.change = self._shadow.sum().item(), -total.exchange
        angle, ratio = self._alignment(w.parameter)
        return replace(self._potential_half(step, boundary, w, total), angle_degrees=angle, ratio=ratio)

    def _learned_half(self, step: int, fb: Update) -> Half:
        """kp: Phi = 1/2 ||B||^2, with B's own update and optimizer."""
        lr, total = self._recipe.optimizer.lr, Sums()
        for block in fb.blocks():
            total.add(block, lr)
        return self._potential_half(step, self._layer, fb, total)

    def _potential_half(self, step: int, boundary: int, update: Update, total: Sums) -> Half:
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
            rounding=self._rounding(update.numbers, total),
            exchange_rounding=self._product_rounding(self._recipe.optimizer.lr * total.product),
        )

    def _shadow_half(self, step: int, sums: _Signals) -> Half:
        """dfa's other boundaries, at layer l: Phi = <B_l, V_l>, dV_l = -lr e^T h_l, so dPhi = -lr sum s h."""
        exchange = self._recipe.optimizer.lr * sums.s_h.sum().item()
        return Half(
            boundary=self._layer,
            step=step,
            end="upper",
            level=self._shadow.sum().item(),
            change=-exchange,
            exchange=exchange,
        )

    # -- rounding -----------------------------------------------------------------------------

    def _rounding(self, numbers: int, total: Sums) -> float:
        """How large a half's residual may be by rounding.

        Each of the parameter's numbers is rounded once per step, by up to eps/2 of itself, which weighs
        in with W or B; independent roundings add up as the root of their number. The optimizer rounds
        relative to the update, matrix products relative to their terms.
        """
        stored = self._epsilon * total.size / math.sqrt(max(numbers, 1))
        products = self._product_rounding(self._recipe.optimizer.lr * total.product)
        return _MARGIN * (stored + self._epsilon * total.update) + products

    def _product_rounding(self, magnitude: float) -> float:
        """How far a sum of products of signals may be off: their dtype's eps, times the root of the
        longest sum in them, relative to the sum of magnitudes."""
        longest = max(self._recipe.batch_size, *self._recipe.network.sizes)
        return _MARGIN * self._epsilon * math.sqrt(longest) * magnitude

    # -- parts --------------------------------------------------------------------------------

    def _fixed(self, rule: Rule) -> Tensor | None:
        if self._upper is None:
            return None
        return rule.direct_feedback(self._upper) if rule.is_direct else rule.fixed(self._upper)

    def _move_shadow(self, weight: Tensor) -> None:
        """V moves by -lr e^T h, whatever the optimizer makes of the gradient."""
        if not self._rule.is_direct:
            return
        lr = self._recipe.optimizer.lr
        if self._upper is not None and self._matrix is not None:
            self._shadow -= lr * (self._matrix * gradient_of(weight).double()).sum(0)
        elif self._local and self._sums is not None:
            self._shadow -= lr * self._sums.s_h

    def _alignment(self, weight: Tensor) -> tuple[float | None, float | None]:
        """(angle in degrees, ||B|| / ||W||) between vec(W) and what stands in its place, to W's precision."""
        if self._matrix is None:
            return None, None
        feedback = self._rule.field(weight, self._matrix.to(weight.dtype)).flatten()
        norms = (weight.norm() * feedback.norm()).item()
        cosine = (weight.flatten() @ feedback).item() / norms if norms else 0.0
        ratio = (feedback.norm() / weight.norm()).item() if norms else 0.0
        return math.degrees(math.acos(max(-1.0, min(1.0, cosine)))), ratio
