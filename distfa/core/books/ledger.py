"""The conservation ledger: how Q_l changed in one step, by cause, exactly (theory.md, the exact ledger).

    Q_l[i] = 1/2 (||W_l[i,:]||^2 + b_l[i]^2) - Phi_{l+1}[i]        constant under gradient flow

Each half of the change is computed where its data is, in float64, from what that layer really used. Only sums over
neurons travel, and ``join`` puts the two halves of a boundary together:

    lower half, at layer l       d 1/2 (||W||^2 + b^2) = discretisation + optimizer + non-homogeneity + staleness
                                                         - lr sum s h
    upper half, at layer l+1     d Phi                 = second order + optimizer - lr <B, G_{l+1}>

The last terms of the two are the same number seen from two ends: their difference is *transport*, zero
exactly when both ends used the same signals and the same feedback matrix. What no cause in a half explains is its
*residual*: zero when the layer's own arithmetic and optimizer did what they should.

kp, dkp and dfa keep their potential at layer l (the learned B; the shadow readout V_l), so both halves are local
and transport is zero by construction. Only for dfa's last hidden layer does the shadow move as W_L does: there layer L
keeps it, and the law ties the two layers.

Shapes: per-neuron vectors (d_l,), float64; s, h, z, delta (n, d_l).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from distfa.core.base.recipe import Recipe
from distfa.core.books.update import Number
from distfa.core.rules.base import Rule


@dataclass(frozen=True, kw_only=True)
class Half:
    """One end's part of the change of Q over one step, summed over the neurons of layer ``boundary``.

    Attributes:
        boundary: l.
        step: Counted from 0.
        end: ``lower`` (incoming weights of layer l) or ``upper`` (its potential).
        level: 1/2 (||W||^2 + b^2), or Phi, after the step; None where the weights of the layer above have no potential,
            so that only the pairing <s, h> is entered.
        change: Change of ``level`` in this step, as measured.
        second_order: 1/2 ||dW||^2 (lower), or what Phi's curvature adds (upper).
        optimizer: What the optimizer added to plain SGD.
        nonhomogeneity: Lower only.
        staleness: Lower only: from forwards that saw older weights than those the update changes.
        renewal: Upper only: what renewing feedback added before the update, <dB_l, V_l> (dfa), or to
            1/2 ||B_l||^2 (dkp).
        exchange: lr sum s h, or lr <B, G>: the same number at both ends.
        residual: ``change`` less all that explains it.
        rounding: How large ``residual`` may be from rounding alone.
        exchange_rounding: How far the ``exchange`` of the two ends may differ from rounding alone.
        angle_degrees: Upper only: between vec(W_{l+1}) and vec(B_{l+1}); NaN where a rule has none.
        ratio: Upper only: ||B|| / ||W||.
        neurons: The same half neuron by neuron, where asked for.
    """

    boundary: int
    step: int
    end: str
    level: Number | None = 0.0
    change: Number = 0.0
    second_order: Number = 0.0
    optimizer: Number = 0.0
    nonhomogeneity: Number = 0.0
    staleness: Number = 0.0
    renewal: Number = 0.0
    exchange: Number = 0.0
    residual: Number = 0.0
    rounding: Number = 0.0
    exchange_rounding: Number = 0.0
    angle_degrees: float | None = None
    ratio: float | None = None
    neurons: Half | None = None


@dataclass(frozen=True, kw_only=True)
class NeuronShares:
    """Each neuron's contribution to an entry: (d_l,) numbers each, named as in ``LedgerRecord``."""

    change: tuple[float, ...]
    discretisation: tuple[float, ...]
    optimizer: tuple[float, ...]
    nonhomogeneity: tuple[float, ...]
    staleness: tuple[float, ...]
    renewal: tuple[float, ...]
    transport: tuple[float, ...]
    residual: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class LedgerRecord:
    """How Q_l changed in one step, by cause; sums over the neurons of layer l.

    ``change = discretisation + optimizer + nonhomogeneity + staleness + renewal + transport + residual`` holds exactly.

    Attributes:
        step: Counted from 0.
        boundary: l.
        incoming: 1/2 (||W_l||^2 + ||b_l||^2) after the step: one side of the law.
        potential: Phi_{l+1} after the step: the other side; both grow equally under gradient flow. None where the law
            has no other side: the layer above is not a single Linear or Conv.
        change: Of Q_l = incoming - potential in this step.
        discretisation: Of finite steps.
        optimizer: Momentum, weight decay, Adam: what was added to plain SGD.
        nonhomogeneity: Of activations for which phi'(z) z is not phi(z).
        staleness: Of delayed updates: -lr <W - W(at forward), G>; 0 under ``sync``.
        renewal: Of feedback that was renewed before the update.
        transport: The difference between what the two ends used.
        residual: What nothing above explains.
        residual_lower: The part of it at layer l.
        residual_upper: The part of it at the layer that holds the potential.
        tolerance: For ``residual``; follows from dtype and sizes.
        transport_tolerance: For ``transport``; infinite under a lossy codec.
        angle_degrees: Weight alignment of the boundary; None for a rule without a fixed matrix.
        ratio: ||B|| / ||W||.
        neurons: Neuron by neuron, where asked for.
    """

    step: int
    boundary: int
    incoming: float
    potential: float | None
    change: float
    discretisation: float
    optimizer: float
    nonhomogeneity: float
    staleness: float
    transport: float
    residual: float
    residual_lower: float
    residual_upper: float
    tolerance: float
    transport_tolerance: float
    renewal: float = 0.0
    angle_degrees: float | None = None
    ratio: float | None = None
    neurons: NeuronShares | None = None

    @property
    def holds(self) -> bool:
        """Whether both ``transport`` and ``residual`` are within their tolerances."""
        return describe_violation(self) is None


def describe_violation(record: LedgerRecord) -> str | None:
    """Describe what is wrong with an entry; None if the law holds.

    A transport term out of bounds lies between the two layers of the boundary; a residual lies in one
    layer's own arithmetic.
    """
    where = f"boundary {record.boundary} (layers {record.boundary} and {record.boundary + 1}), step {record.step}"
    if not math.isfinite(record.change + record.residual + record.transport):
        return (
            f"{where}: the conservation law cannot be checked: weights or signals are no longer finite, or are "
            "too large to sum; lower the learning rate"
        )
    if abs(record.transport) > record.transport_tolerance:
        return (
            f"{where}: the conservation law is broken by {record.transport:.3g} in transport, tolerance "
            f"{record.transport_tolerance:.1g}: the two layers did not use the same signals; an activation or an "
            "error was altered, lost, repeated or rounded in transit, or the two ends hold different feedback "
            "matrices"
        )
    if abs(record.residual) > record.tolerance:
        upper = abs(record.residual_upper) > abs(record.residual_lower)
        layer = record.boundary + 1 if upper else record.boundary
        return (
            f"{where}: the conservation law is broken by {record.residual:.3g} within layer {layer}, tolerance "
            f"{record.tolerance:.1g}: its update is not what its gradient and optimizer should produce; it was "
            "applied twice or not at all, or weights or optimizer state were altered in memory"
        )
    return None


def ends(recipe: Recipe, rule: Rule, boundary: int) -> tuple[tuple[int, str], ...]:
    """Which layers report which ends of a boundary: ((layer, end), ...); empty for a rule without a law."""
    if not rule.potential:
        return ()
    return ((boundary, "lower"), (rule.potential_layer(boundary), "upper"))


def join(halves: list[Half], *, lossy: bool) -> LedgerRecord:
    """One boundary's record of one step from its halves.

    Args:
        halves: ``lower`` and ``upper``, in sums.
        lossy: Whether a codec of this boundary rounds, so that the ends are expected to differ.
    """
    by_end = {half.end: half for half in halves}
    lower, upper = by_end["lower"], by_end["upper"]
    return LedgerRecord(
        step=lower.step,
        boundary=lower.boundary,
        incoming=float(lower.level or 0.0),
        potential=None if upper.level is None else float(upper.level),
        **{cause: float(value) for cause, value in _causes(lower, upper).items()},
        residual_lower=float(lower.residual),
        residual_upper=float(upper.residual),
        tolerance=float(lower.rounding + upper.rounding),
        transport_tolerance=math.inf if lossy else float(lower.exchange_rounding + upper.exchange_rounding),
        angle_degrees=upper.angle_degrees,
        ratio=upper.ratio,
        neurons=_neurons(lower.neurons, upper.neurons),
    )


def _causes(lower: Half, upper: Half) -> dict[str, Number]:
    """The change of Q and its causes: the lower half's less the upper one's."""
    return {
        "change": lower.change - upper.change,
        "discretisation": lower.second_order - upper.second_order,
        "optimizer": lower.optimizer - upper.optimizer,
        "nonhomogeneity": lower.nonhomogeneity,
        "staleness": lower.staleness,
        "renewal": -upper.renewal,
        "transport": upper.exchange - lower.exchange,
        "residual": lower.residual - upper.residual,
    }


def _neurons(lower: Half | None, upper: Half | None) -> NeuronShares | None:
    if lower is None or upper is None:
        return None
    width = next(len(value) for value in (lower.change, upper.change) if isinstance(value, Tensor))
    return NeuronShares(
        **{
            cause: tuple(value.tolist()) if isinstance(value, Tensor) else (value,) * width
            for cause, value in _causes(lower, upper).items()
        }
    )
