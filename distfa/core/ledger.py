"""The conservation ledger: how Q_l changed in one step, by cause, exactly (theory.md, the exact ledger).

    Q_l[i] = 1/2 (||W_l[i,:]||^2 + b_l[i]^2) - Phi_{l+1}[i]        constant under gradient flow

Each half of the change is computed where its data is, in float64, from what that layer really used;
only sums over neurons travel, and ``join`` puts the halves of a boundary together:

    lower half, at layer l       d 1/2 (||W||^2 + b^2) = discretisation + optimizer + non-homogeneity - lr sum s h
    upper half, at layer l+1     d Phi                 = second order + optimizer - lr <B, G_{l+1}>

The last terms of the two are the same number seen from two ends: their difference is *transport*, zero
exactly when both ends used the same signals and the same feedback matrix. What each half leaves
unexplained is its *residual*, zero when the layer's own arithmetic and optimizer did what they should.

kp and dfa keep their potential beside layer l (the learned B; the shadow readout V_l), so both halves are
local and transport is zero by construction; only for dfa's last hidden layer does the shadow move as W_L
does, so that layer L keeps it and the law ties the two layers.

Shapes: per-neuron vectors (d_l,), float64; s, h, z, delta (n, d_l).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from distfa.core import optim
from distfa.core.recipe import Recipe
from distfa.core.rules.base import Rule

_BLOCK_NUMBERS = 32 * 1024  # of a float64 block: 256 KiB
_MARGIN = 8.0  # standard deviations of rounding that pass without remark


@dataclass(frozen=True, kw_only=True)
class Half:
    """One end's part of the change of Q over one step, summed over the neurons of layer ``boundary``.

    Attributes:
        boundary: l.
        step: Counted from 0.
        end: ``lower`` (incoming weights of layer l) or ``upper`` (its potential).
        level: 1/2 (||W||^2 + b^2), or Phi, after the step.
        change: Of ``level`` in this step, measured.
        second_order: 1/2 ||dW||^2 (lower), or what Phi's curvature adds (upper).
        optimizer: What the optimizer added to plain SGD.
        nonhomogeneity: Lower only.
        exchange: lr sum s h, or lr <B, G>: the same number at both ends.
        residual: ``change`` less all that explains it.
        rounding: How large ``residual`` may be by rounding.
        exchange_rounding: How far the two ends' ``exchange`` may differ by rounding.
        angle_degrees: Upper only: between vec(W_{l+1}) and vec(B_{l+1}); NaN where a rule has none.
        ratio: Upper only: ||B|| / ||W||.
    """

    boundary: int
    step: int
    end: str
    level: float = 0.0
    change: float = 0.0
    second_order: float = 0.0
    optimizer: float = 0.0
    nonhomogeneity: float = 0.0
    exchange: float = 0.0
    residual: float = 0.0
    rounding: float = 0.0
    exchange_rounding: float = 0.0
    angle_degrees: float | None = None
    ratio: float | None = None


@dataclass(frozen=True, kw_only=True)
class LedgerRecord:
    """How Q_l changed in one step, by cause; sums over the neurons of layer l.

    ``change = discretisation + optimizer + nonhomogeneity + transport + residual``, exactly.

    Attributes:
        step: Counted from 0.
        boundary: l.
        incoming: 1/2 (||W_l||^2 + ||b_l||^2) after the step: one side of the law.
        potential: Phi_{l+1} after the step: the other side; both grow alike under gradient flow.
        change: Of Q_l = incoming - potential in this step.
        discretisation: Of finite steps.
        optimizer: Momentum, weight decay, Adam: what was added to plain SGD.
        nonhomogeneity: Of activations for which phi'(z) z is not phi(z).
        transport: The difference between what the two ends used.
        residual: What nothing above explains.
        residual_lower: The part of it at layer l.
        residual_upper: The part of it at the layer that holds the potential.
        tolerance: For ``residual``, from dtype and sizes.
        transport_tolerance: For ``transport``; infinite under a lossy codec.
        angle_degrees: Weight alignment of the boundary; None for a rule without a fixed matrix.
        ratio: ||B|| / ||W||.
    """

    step: int
    boundary: int
    incoming: float
    potential: float
    change: float
    discretisation: float
    optimizer: float
    nonhomogeneity: float
    transport: float
    residual: float
    residual_lower: float
    residual_upper: float
    tolerance: float
    transport_tolerance: float
    angle_degrees: float | None = None
    ratio: float | None = None

    @property
    def holds(self) -> bool:
        """Whether both ``transport`` and ``residual`` are within their tolerances."""
        return abs(self.residual) <= self.tolerance and abs(self.transport) <= self.transport_tolerance


def verdict(record: LedgerRecord) -> str | None:
    """What is wrong with an entry, in words; None where the law holds.

    A transport term out of bounds lies between the two layers of the boundary; a residual lies in one
    layer's own arithmetic.
    """
    where = f"boundary {record.boundary} (layers {record.boundary} and {record.boundary + 1}), step {record.step}"
    if abs(record.transport) > record.transport_tolerance:
        return (
            f"{where}: the conservation law is broken by {record.transport:.3g} in transport, tolerance "
            f"{record.transport_tolerance:.1g}: the two layers did not use the same signals; an activation or an error "
            "was altered, lost, repeated or rounded on the way, or the two ends hold different feedback matrices"
        )
    if abs(record.residual) > record.tolerance:
        upper = abs(record.residual_upper) > abs(record.residual_lower)
        layer = record.boundary + 1 if upper else record.boundary
        return (
            f"{where}: the conservation law is broken by {record.residual:.3g} within layer {layer}, tolerance "
            f"{record.tolerance:.1g}: its update is not what its gradient and optimizer make; it was applied twice or "
            "not at all, or weights or optimizer state were altered in memory"
        )
    return None


def ends(recipe: Recipe, rule: Rule, boundary: int) -> tuple[tuple[int, str], ...]:
    """Which layers report which ends of a boundary: ((layer, end), ...); empty for a rule without a law."""
    if not rule.potential:
        return ()
    tied = boundary == len(recipe.network) - 1 and recipe.rank is None
    local = rule.learns_feedback or (rule.is_direct and not tied)
    return ((boundary, "lower"), (boundary if local else boundary + 1, "upper"))


def join(halves: list[Half], *, lossy: bool) -> LedgerRecord:
    """One boundary's record of one step from its halves.

    Args:
        halves: ``lower`` and ``upper``.
        lossy: Whether a codec of this boundary rounds, so that the ends differ by right.
    """
    by_end = {half.end: half for half in halves}
    lower, upper = by_end["lower"], by_end["upper"]
    return LedgerRecord(
        step=lower.step,
        boundary=lower.boundary,
        incoming=lower.level,
        potential=upper.level,
        change=lower.change - upper.change,
        discretisation=lower.second_order - upper.second_order,
        optimizer=lower.optimizer - upper.optimizer,
        nonhomogeneity=lower.nonhomogeneity,
        transport=upper.exchange - lower.exchange,
        residual=lower.residual - upper.residual,
        residual_lower=lower.residual,
        residual_upper=upper.residual,
        tolerance=lower.rounding + upper.rounding,
        transport_tolerance=math.inf if lossy else lower.exchange_rounding + upper.exchange_rounding,
        angle_degrees=upper.angle_degrees,
        ratio=upper.ratio,
    )


class _Block(NamedTuple):
    """Some rows of a parameter around one update, in float64 and flat, so that sums are dot products."""

    before: Tensor
    change: Tensor
    gradient: Tensor
    expected: Tensor
    rows: slice
    shape: tuple[int, ...]


class _Parameter:
    """One parameter around one update: what was there before, what came, what ought to have come.

    Work in float64 goes by blocks of rows that fit a processor's cache: whole matrices in float64 would
    cost more than the update itself.
    """

    def __init__(self, parameter: Tensor, optimizer: torch.optim.Optimizer, config: optim.OptimizerConfig) -> None:
        self.parameter, self._config = parameter, config
        self._before = parameter.clone()
        state = optimizer.state.get(parameter, {})
        self._state = {k: v.clone() if isinstance(v, Tensor) else v for k, v in state.items() if v is not None}

    @property
    def numbers(self) -> int:
        """How many numbers it has."""
        return self.parameter.numel()

    def blocks(self) -> Iterator[_Block]:
        """Every row once; to be called after the update."""
        rows = len(self.parameter)
        size = max(1, _BLOCK_NUMBERS * rows // max(1, self.numbers))
        for start in range(0, rows, size):
            part = slice(start, min(start + size, rows))
            before, gradient = self._before[part].double(), _gradient(self.parameter)[part].double()
            state = {k: v[part] if isinstance(v, Tensor) and v.dim() else v for k, v in self._state.items()}
            expected = optim.expected_update(self._config, before, gradient, state)
            change = self.parameter[part].double() - before
            yield _Block(
                before=before.flatten(),
                change=change.flatten(),
                gradient=gradient.flatten(),
                expected=expected.flatten(),
                rows=part,
                shape=tuple(before.shape),
            )


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


@dataclass(kw_only=True)
class _Squares:
    """What a parameter's half adds up: sums of squares and products over all its numbers, as floats."""

    change: float = 0.0
    second: float = 0.0
    optimizer: float = 0.0
    exchange: float = 0.0
    level: float = 0.0
    size: float = 0.0
    update: float = 0.0
    product: float = 0.0

    def add(self, block: _Block, lr: float) -> _Squares:
        """Add a block of weights whose level is 1/2 ||.||^2: the lower half's, and kp's B."""
        w, dw, g, e = block.before, block.change, block.gradient, block.expected
        square, w_dw, dw_dw, w_g = (w @ w).item(), (w @ dw).item(), (dw @ dw).item(), (w @ g).item()
        self.change += w_dw + dw_dw / 2
        self.second += dw_dw / 2
        self.optimizer += (w @ e).item() + lr * w_g
        self.exchange += lr * w_g
        self.level += square / 2 + w_dw + dw_dw / 2
        self._bound(square, g, e)
        return self

    def add_field(self, block: _Block, lr: float, field: Tensor, phi_before: float, phi_after: float) -> None:
        """Add a block of weights whose level is a potential with gradient ``field``."""
        dw, g, e = block.change, block.gradient, block.expected
        b_dw, b_g = (field @ dw).item(), (field @ g).item()
        self.change += phi_after - phi_before
        self.second += phi_after - phi_before - b_dw
        self.optimizer += (field @ e).item() + lr * b_g
        self.exchange += lr * b_g
        self.level += phi_after
        self._bound(math.sqrt((field @ field).item() * (block.before @ block.before).item()), g, e)

    def _bound(self, square: float, gradient: Tensor, expected: Tensor) -> None:
        """Sums of magnitudes, bounded by norms (Cauchy-Schwarz), for what rounding may do."""
        norm = math.sqrt(square)
        self.size += square
        self.update += norm * expected.norm().item()
        self.product += norm * gradient.norm().item()


@dataclass(kw_only=True)
class _Sums:
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
        self._sums: _Sums | None = None
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
            self._sums = _Sums(delta_z=zero, s_h=zero.clone(), magnitude=zero.clone())
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
        w = _Parameter(*weight, config)
        b = None if bias is None else _Parameter(bias, weight[1], config)
        fb = None if learned is None else _Parameter(*learned, config)
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

    def _lower_half(self, step: int, w: _Parameter, b: _Parameter | None, sums: _Sums) -> Half:
        lr, total = self._recipe.optimizer.lr, _Squares()
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

    def _upper_half(self, step: int, boundary: int, w: _Parameter) -> Half:
        rule, lr, total = self._rule, self._recipe.optimizer.lr, _Squares()
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
            rounding=self._rounding(w.numbers, total),
            exchange_rounding=self._product_rounding(lr * total.product),
            angle_degrees=angle,
            ratio=ratio,
        )

    def _shadow_half(self, step: int, sums: _Sums) -> Half:
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

    def _learned_half(self, step: int, fb: _Parameter) -> Half:
        """kp: Phi = 1/2 ||B||^2, with B's own update and optimizer."""
        lr, total = self._recipe.optimizer.lr, _Squares()
        for block in fb.blocks():
            total.add(block, lr)
        return Half(
            boundary=self._layer,
            step=step,
            end="upper",
            level=total.level,
            change=total.change,
            second_order=total.second,
            optimizer=total.optimizer,
            exchange=total.exchange,
            residual=total.change - total.second - total.optimizer + total.exchange,
            rounding=self._rounding(fb.numbers, total),
            exchange_rounding=self._product_rounding(lr * total.product),
        )

    # -- rounding -----------------------------------------------------------------------------

    def _rounding(self, numbers: int, total: _Squares) -> float:
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
            self._shadow -= lr * (self._matrix * _gradient(weight).double()).sum(0)
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
