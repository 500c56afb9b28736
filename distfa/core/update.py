"""One update of one parameter, reckoned in float64: what was made of it, and what ought to have been."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from distfa.core import optim

_BLOCK_NUMBERS = 32 * 1024  # of a float64 block: 256 KiB


class Block(NamedTuple):
    """Some rows of a parameter around one update, in float64 and flat, so that sums are dot products."""

    before: Tensor
    change: Tensor
    gradient: Tensor
    expected: Tensor
    rows: slice
    shape: tuple[int, ...]


class Update:
    """One update of one parameter: what was there before, what came, what ought to have come.

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

    def blocks(self) -> Iterator[Block]:
        """Every row once; to be called after the update."""
        rows = len(self.parameter)
        size = max(1, _BLOCK_NUMBERS * rows // max(1, self.numbers))
        for start in range(0, rows, size):
            part = slice(start, min(start + size, rows))
            before, gradient = self._before[part].double(), gradient_of(self.parameter)[part].double()
            state = {k: v[part] if isinstance(v, Tensor) and v.dim() else v for k, v in self._state.items()}
            expected = optim.expected_update(self._config, before, gradient, state)
            change = self.parameter[part].double() - before
            yield Block(
                before=before.flatten(),
                change=change.flatten(),
                gradient=gradient.flatten(),
                expected=expected.flatten(),
                rows=part,
                shape=tuple(before.shape),
            )


def gradient_of(parameter: Tensor) -> Tensor:
    """The parameter's gradient; zeros where it has none."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


@dataclass(kw_only=True)
class Sums:
    """What a parameter's half adds up: sums of squares and products over all its numbers, as floats."""

    change: float = 0.0
    second: float = 0.0
    optimizer: float = 0.0
    exchange: float = 0.0
    level: float = 0.0
    size: float = 0.0
    update: float = 0.0
    product: float = 0.0

    def add(self, block: Block, lr: float) -> Sums:
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

    def add_field(self, block: Block, lr: float, field: Tensor, phi_before: float, phi_after: float) -> None:
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
