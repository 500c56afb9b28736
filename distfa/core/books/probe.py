"""Probes: how well the rule's updates align with the true gradient, from a real forward and backward now and then.

    cos_l = <grad_l, G_l> / (||grad_l|| ||G_l||),     a_l = <grad_l, G_l>,     dLoss/dt = - sum_l a_l

grad_l is the gradient of the step's batch at the weights before the step; G_l is what the rule really makes of that
batch. A layer reports a few numbers, and the rest is computed from them (theory.md, Alignment).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distfa.core.books.update import gradient_of

_BLOCK_NUMBERS = 32 * 1024  # 256 KiB in float64
BINS = 20  # bins of a histogram of cosines: equal parts of -1 to 1
TALLY_NUMBERS = 3 * 8


@dataclass(frozen=True, kw_only=True)
class LayerProbe:
    """One layer's numbers, over W and b together.

    Attributes:
        step: Counted from 0.
        layer: Counted from 1.
        a: <grad_l, G_l>.
        gradient_square: ||grad_l||^2, grad_l the gradient of the batch by backpropagation.
        update_square: ||G_l||^2, G_l the rule's gradient.
        signal: Signal alignment: the mean of cos(s_l, delta_{l+1} W_{l+1}) over the rows where both are more than
            round-off; None at the output layer, and where there is no such row.
        active: Share of the layer's outputs that are not zero for at least one sample of the batch.
        neurons: A histogram over its rows of weights (one per output neuron or channel): how many have a cosine with
            the true gradient in each of ``BINS`` equal parts of -1 to 1. Rows where either gradient is zero are not
            counted.
        altered: Keys (in ``Ends.state_dict``) of fixed feedback matrices that are no longer as they were made.
        used: Whether the step used any of its trained parameters (a block that is skipped at random may use none).
    """

    step: int
    layer: int
    a: float
    gradient_square: float
    update_square: float
    signal: float | None = None
    active: float | None = None
    neurons: tuple[int, ...] = ()
    altered: tuple[str, ...] = ()
    used: bool = True

    def to_message(self, dtype: torch.dtype) -> Tensor:
        """The numbers that global alignment needs, as a message, (1, ``TALLY_NUMBERS``).

        Every byte of three float64 numbers is sent as one number, since every dtype of signals holds a byte exactly.
        """
        numbers = torch.tensor([self.a, self.gradient_square, self.update_square], dtype=torch.float64)
        return numbers.view(torch.uint8).to(dtype).unsqueeze(0)

    @staticmethod
    def from_message(tally: Tensor, *, step: int, layer: int) -> LayerProbe:
        """The three numbers that ``to_message`` wrote."""
        a, gradient, update = tally.cpu().to(torch.uint8).flatten().contiguous().view(torch.float64).tolist()
        return LayerProbe(step=step, layer=layer, a=a, gradient_square=gradient, update_square=update)


@dataclass(frozen=True, kw_only=True)
class LayerAlignment:
    """Gradient alignment of one layer.

    Attributes:
        layer: Counted from 1.
        cosine: cos_l; 0 where either is zero.
        gradient_norm: ||grad_l||.
        update_norm: ||G_l||.
        a: How fast this layer's update lowers the loss; below 0 it works against the other layers.
        signal: Signal alignment, as ``LayerProbe``.
        active: Share of the layer's outputs that are not zero for at least one sample of the batch.
        neurons: A histogram of the cosines of its neurons (``LayerProbe.neurons``).
        altered: The fixed feedback matrices that were altered.
        used: Whether the step used any of its trained parameters.
    """

    layer: int
    cosine: float
    gradient_norm: float
    update_norm: float
    a: float
    signal: float | None = None
    active: float | None = None
    neurons: tuple[int, ...] = ()
    altered: tuple[str, ...] = ()
    used: bool = True


@dataclass(frozen=True, kw_only=True)
class ProbeRecord:
    """Alignment of a whole network at one step.

    Attributes:
        step: Counted from 0.
        cosine: Global gradient alignment, over all parameters at once.
        dominance: sum_l a_l / sum_l ||grad_l||^2: alignment dominance holds while it is above 0.
        min_dominance: The smallest dominance so far.
        loss_fall: sum_l a_l, the rate at which the loss falls under gradient flow.
        layers: The alignment of every layer, in order.
    """

    step: int
    cosine: float
    dominance: float
    min_dominance: float
    loss_fall: float
    layers: tuple[LayerAlignment, ...]


def row_cosines(a: Tensor, b: Tensor) -> Tensor:
    """cos of every row of a (n, d) with that of b, float64, shape (n,); 0 where either is zero."""
    return torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=1, eps=1e-300)


def sound(s: Tensor, straight: Tensor, bound: float) -> Tensor:
    """Which rows of two teaching signals from the same error are more than round-off, shape (n,).

    Feedback has the scale of the weights, so that both have one scale. But the numbers of an error may cancel in one of
    them (those of a softmax add up to 0, and feedback of signs alone may have one sign for all classes): then nothing
    is left of that row but rounding, which has no direction. Rows that are zero have none either.

    Args:
        s: s_l over the gain of the feedback, (n, d).
        straight: What backpropagation would send, (n, d).
        bound: Rounding of a sum of products, relative to the magnitude of its terms (``Rounding.of_products``).
    """
    a, b = _norms(s), _norms(straight)
    return ~((a <= bound * b) | (b <= bound * a))


def carried(down: Tensor, start: Tensor, bound: float) -> Tensor:
    """Which rows of a layer's backward pass are more than round-off, shape (n,).

    Of a row whose sound numbers all met closed units nothing comes out but the rounding of the others: its gain is that
    much below the gain of other rows.

    Args:
        down: What comes out, (n, d_{l-1}).
        start: What the backward pass began with, (n, d_l).
        bound: As for ``sound``.
    """
    gains = _norms(down) / _norms(start)
    most: Tensor = gains.nan_to_num().max()
    return ~(gains <= bound * most)


def _norms(rows: Tensor) -> Tensor:
    found: Tensor = rows.double().flatten(1).norm(dim=1)
    return found


def measure_alignment(
    step: int,
    layer: int,
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    signal: float | None,
    active: float | None = None,
) -> LayerProbe:
    """A layer's numbers, in float64.

    Args:
        step: Counted from 0.
        layer: Counted from 1.
        parameters: W and b, with the rule's G and g as their ``grad``.
        gradients: The true gradients, in the same shapes.
        signal: The layer's signal alignment.
        active: Share of its outputs that are alive.
    """
    a = gradient_square = update_square = 0.0
    for parameter, gradient in zip(parameters, gradients, strict=True):
        for update, true in zip(_blocks(gradient_of(parameter)), _blocks(gradient), strict=True):
            a += (update @ true).item()
            gradient_square += (true @ true).item()
            update_square += (update @ update).item()
    return LayerProbe(
        step=step,
        layer=layer,
        a=a,
        gradient_square=gradient_square,
        update_square=update_square,
        signal=signal,
        active=active,
        neurons=_by_neuron(parameters, gradients),
        used=any(parameter.grad is not None for parameter in parameters),
    )


def _by_neuron(parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> tuple[int, ...]:
    """A histogram of the cosines of single rows of weights."""
    counts = torch.zeros(BINS, dtype=torch.int64)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if parameter.grad is None or parameter.dim() < 2 or not parameter.numel():
            continue
        rows = max(1, _BLOCK_NUMBERS // gradient[0].numel())
        parts = (torch.split(tensor.flatten(1), rows) for tensor in (parameter.grad, gradient))
        for update, true in zip(*parts, strict=True):
            u, t = update.double(), true.double()
            norms = (torch.linalg.vecdot(u, u) * torch.linalg.vecdot(t, t)).sqrt()
            cosines = (torch.linalg.vecdot(u, t) / norms)[norms > 0]
            bins = ((cosines[cosines.isfinite()] + 1) * (BINS / 2)).long().clamp(0, BINS - 1)
            counts += torch.bincount(bins, minlength=BINS).cpu()
    return tuple(counts.tolist())


def _blocks(tensor: Tensor) -> Iterator[Tensor]:
    """The numbers in float64, in blocks that fit a processor's cache."""
    return (block.double() for block in torch.split(tensor.flatten(), _BLOCK_NUMBERS))


@dataclass(frozen=True, kw_only=True)
class AlignmentSums:
    """A probe's sums over layers, from the first up: what global alignment is made of."""

    a: float = 0.0
    gradient_square: float = 0.0
    update_square: float = 0.0

    def plus(self, probe: LayerProbe) -> AlignmentSums:
        """These sums with the next layer added."""
        return AlignmentSums(**{name: value + getattr(probe, name) for name, value in vars(self).items()})

    @property
    def cosine(self) -> float:
        """Global alignment."""
        return _cosine(self.a, self.gradient_square, self.update_square)


class Alignments:
    """Puts the layers' probes together.

    Attributes:
        least: The smallest dominance so far.
    """

    def __init__(self) -> None:
        self.least = float("inf")

    def add(self, probes: Sequence[LayerProbe]) -> ProbeRecord:
        """The record of one step from the probes of all its layers."""
        ordered = sorted(probes, key=lambda probe: probe.layer)
        sums = AlignmentSums()
        for probe in ordered:
            sums = sums.plus(probe)
        dominance = sums.a / sums.gradient_square if sums.gradient_square else 0.0
        self.least = min(self.least, dominance)
        return ProbeRecord(
            step=ordered[0].step,
            cosine=sums.cosine,
            dominance=dominance,
            min_dominance=self.least,
            loss_fall=sums.a,
            layers=tuple(
                LayerAlignment(
                    layer=probe.layer,
                    cosine=_cosine(probe.a, probe.gradient_square, probe.update_square),
                    gradient_norm=probe.gradient_square**0.5,
                    update_norm=probe.update_square**0.5,
                    a=probe.a,
                    signal=probe.signal,
                    active=probe.active,
                    neurons=probe.neurons,
                    altered=probe.altered,
                    used=probe.used,
                )
                for probe in ordered
            ),
        )


def _cosine(product: float, square: float, other_square: float) -> float:
    return product / (square * other_square) ** 0.5 if square and other_square else 0.0
