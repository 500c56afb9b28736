"""One update of one parameter, in float64: what the update did, and what it should have done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from distfa.core.base import optim

_BLOCK_NUMBERS = 32 * 1024  # numbers in a float64 block: 256 KiB


class UpdateBlock(NamedTuple):
    """Some rows of a parameter around one update, in float64 and flat, so that sums are dot products."""

    before: Tensor
    change: Tensor
    gradient: Tensor
    expected: Tensor
    rows: slice
    shape: tuple[int, ...]


class ParameterUpdate:
    """One update of one parameter: the numbers before it, the change it made, the change it should have made.

    Work in float64 is done in blocks of rows that fit a processor's cache: with whole matrices in float64 it would cost
    more than the update itself.
    """

    def __init__(self, parameter: Tensor, optimizer: optim.Optimizer, config: optim.OptimizerConfig) -> None:
        self.parameter, self.config, self._optimizer = parameter, config, optimizer
        self._before = _rows_of(parameter).clone()
        state = {k: v for k, v in optimizer.state.get(parameter, {}).items() if v is not None}
        self._state = {k: v.clone() if k == "step" else _rows_of(v).clone() for k, v in state.items()}

    @property
    def numbers(self) -> int:
        """How many numbers it has."""
        return self.parameter.numel()

    def blocks(self) -> Iterator[UpdateBlock]:
        """The blocks, with every row once; to be called after the update."""
        now, made = _rows_of(self.parameter), _rows_of(gradient_of(self.parameter))
        for part in _row_blocks(now):
            before, gradient = self._before[part].double(), made[part].double()
            state = {k: v if k == "step" else v[part] for k, v in self._state.items()}
            expected = torch.zeros_like(before)
            if self.parameter.grad is not None:
                expected = optim.expected_update(self.config, before, self._optimizer.clip(gradient), state)
            change = now[part].double() - before
            yield UpdateBlock(
                before=before.flatten(),
                change=change.flatten(),
                gradient=gradient.flatten(),
                expected=expected.flatten(),
                rows=part,
                shape=tuple(before.shape),
            )


def gradient_of(parameter: Tensor) -> Tensor:
    """The parameter's gradient; zeros if it has none."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def drift_of_rows(parameter: Tensor, before: Tensor) -> Tensor:
    """<parameter - before, its gradient> of every row, float64, shape (rows,)."""
    gradient, parameter, before = _rows_of(gradient_of(parameter)), _rows_of(parameter), _rows_of(before)
    found = torch.empty(len(parameter), dtype=torch.float64, device=parameter.device)
    for rows in _row_blocks(parameter):
        moved = parameter[rows].double() - before[rows].double()
        found[rows] = (moved * gradient[rows].double()).reshape(len(moved), -1).sum(1)
    return found


def _rows_of(parameter: Tensor) -> Tensor:
    """The parameter itself; a single number becomes one row."""
    return parameter if parameter.dim() else parameter.reshape(1)


def _row_blocks(parameter: Tensor) -> Iterator[slice]:
    """Its rows, in blocks that fit a processor's cache."""
    rows = len(parameter)
    size = max(1, _BLOCK_NUMBERS * rows // max(1, parameter.numel()))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


Number = float | Tensor
"""A sum over all neurons of a layer, or one number per neuron, (d_l,)."""


class Fold:
    """Sums over all neurons: a half of an entry as a few numbers."""

    def dot(self, block: UpdateBlock, a: Tensor, b: Tensor) -> Number:
        """<a, b> of two flat tensors of a block."""
        return (a @ b).item()

    def vector(self, per_neuron: Tensor) -> Number:
        """A quantity that has one number per neuron."""
        return per_neuron.sum().item()


class PerNeuron(Fold):
    """Sums for every neuron separately.

    Args:
        neurons: d_l.
        rows: Whether neurons are a parameter's rows (the weights into them), or its columns (those out of them).
    """

    def __init__(self, neurons: int, *, rows: bool) -> None:
        self._neurons, self._rows = neurons, rows

    def dot(self, block: UpdateBlock, a: Tensor, b: Tensor) -> Number:
        """As ``Fold``, shape (d_l,)."""
        product = (a * b).view(block.shape)
        if not self._rows:
            return product.sum(0)
        found = torch.zeros(self._neurons, dtype=torch.float64, device=a.device)
        found[block.rows] = product.reshape(len(product), -1).sum(1)
        return found

    def vector(self, per_neuron: Tensor) -> Number:
        """Itself."""
        return per_neuron.clone()


@dataclass(kw_only=True)
class HalfSums:
    """The sums that a half needs of one parameter: squares and products over its numbers.

    Attributes:
        fold: Sums over all neurons, or neuron by neuron.
        rounded: Whether gradients are rounded number by number, so that ``product_square`` is needed.
    """

    fold: Fold
    rounded: bool = False
    change: Number = 0.0
    second: Number = 0.0
    optimizer: Number = 0.0
    exchange: Number = 0.0
    level: Number = 0.0
    size: Number = 0.0
    update: Number = 0.0
    product: Number = 0.0
    product_square: Number = 0.0

    def add(self, block: UpdateBlock, lr: float) -> None:
        """Add a block of weights whose level is 1/2 ||.||^2: the lower half's, and kp's B."""
        w, dw, g, e = block.before, block.change, block.gradient, block.expected
        square, w_dw, dw_dw, w_g = (self.fold.dot(block, *pair) for pair in ((w, w), (w, dw), (dw, dw), (w, g)))
        self.change += w_dw + dw_dw / 2
        self.second += dw_dw / 2
        self.optimizer += self.fold.dot(block, w, e) + lr * w_g
        self.exchange += lr * w_g
        self.level += square / 2 + w_dw + dw_dw / 2
        self._bound(block, square, w)

    def add_field(self, block: UpdateBlock, lr: float, field: Tensor, phi_before: Number, phi_after: Number) -> None:
        """Add a block of weights whose level is a potential with gradient ``field``."""
        dw, g, e = block.change, block.gradient, block.expected
        b_dw, b_g = self.fold.dot(block, field, dw), self.fold.dot(block, field, g)
        self.change += phi_after - phi_before
        self.second += phi_after - phi_before - b_dw
        self.optimizer += self.fold.dot(block, field, e) + lr * b_g
        self.exchange += lr * b_g
        self.level += phi_after
        sizes = self.fold.dot(block, field, field) * self.fold.dot(block, block.before, block.before)
        self._bound(block, sizes**0.5, field)

    def add_product(self, block: UpdateBlock, lr: float, field: Tensor) -> None:
        """Add only the exchange of a block, since the level is kept elsewhere."""
        self.exchange += lr * self.fold.dot(block, field, block.gradient)
        squares = self.fold.dot(block, field, field) * self.fold.dot(block, block.gradient, block.gradient)
        self.product += squares**0.5
        self._square(block, field)

    def _bound(self, block: UpdateBlock, square: Number, factor: Tensor) -> None:
        """Bound the sums of magnitudes by norms (Cauchy-Schwarz), to bound rounding."""
        self._square(block, factor)
        norm = square**0.5
        self.size += square
        self.update += norm * self.fold.dot(block, block.expected, block.expected) ** 0.5
        self.product += norm * self.fold.dot(block, block.gradient, block.gradient) ** 0.5

    def _square(self, block: UpdateBlock, factor: Tensor) -> None:
        """Add squares: their root, times eps / 2, bounds the independent roundings of a gradient's numbers."""
        if self.rounded:
            terms = factor * block.gradient
            self.product_square += self.fold.dot(block, terms, terms)
