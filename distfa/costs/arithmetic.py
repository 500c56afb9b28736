"""The units in which work is counted: products of matrices, passes over memory, updates, draws, calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from distfa.core.base.optim import OptimizerConfig
from distfa.core.base.recipe import Recipe


class Product(NamedTuple):
    """(rows, inner) times (inner, columns).

    Attributes:
        kind: How the factors are laid out in memory: ``forward``: h by W^T; ``gradient``: delta^T by h; ``down``:
            plain.
    """

    rows: int
    inner: int
    columns: int
    kind: str = "forward"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(rows, inner, columns)."""
        return self.rows, self.inner, self.columns

    @property
    def flops(self) -> int:
        """Floating-point operations: a multiplication and an addition for each term."""
        return 2 * self.rows * self.inner * self.columns

    @property
    def numbers(self) -> int:
        """How many numbers both factors and the result have."""
        return self.rows * self.inner + self.inner * self.columns + self.rows * self.columns

    def factors(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Random factors, laid out in memory as in a layer."""
        generator = torch.Generator().manual_seed(0)

        def drawn(rows: int, columns: int, *, turned: bool) -> torch.Tensor:
            matrix = torch.randn(*((columns, rows) if turned else (rows, columns)), generator=generator, dtype=dtype)
            return matrix.t() if turned else matrix

        left = drawn(self.rows, self.inner, turned=self.kind == "gradient")
        return left, drawn(self.inner, self.columns, turned=self.kind == "forward")


@dataclass(frozen=True, kw_only=True)
class Effort:
    """Work that can be added up.

    Attributes:
        products: Matrix products.
        counted_flops: FLOPs of products that were only counted: convolutions, attention, the modules of a layer.
        passed_bytes: Bytes read and written in passes over signals.
        updates: Steps of an optimizer, each with a fixed cost.
        updated_bytes: Bytes read and written by them.
        drawn: Random numbers drawn.
        calls: Tensor operations, each with a fixed cost.
    """

    products: tuple[Product, ...] = ()
    counted_flops: int = 0
    passed_bytes: int = 0
    updates: int = 0
    updated_bytes: int = 0
    drawn: int = 0
    calls: int = 0

    def __add__(self, other: Effort) -> Effort:
        return Effort(**{key: value + getattr(other, key) for key, value in vars(self).items()})

    @property
    def flops(self) -> int:
        """FLOPs of all products."""
        return self.counted_flops + sum(product.flops for product in self.products)


def check_effort(recipe: Recipe, n: int, columns: int) -> Effort:
    """The check of what was received for NaN and infinity."""
    if not recipe.check_finite:
        return Effort()
    return Effort(passed_bytes=n * columns * recipe.signal_dtype.itemsize, calls=3)


def state_numbers(optimizer: OptimizerConfig) -> int:
    """Numbers that an optimizer keeps per parameter."""
    if optimizer.name == "sgd":
        return 1 if optimizer.momentum else 0
    return 3 if optimizer.amsgrad else 2


def count_touched(optimizer: OptimizerConfig) -> int:
    """Numbers that an optimizer reads and writes per parameter: W twice, G once, its state twice."""
    return 3 + 2 * state_numbers(optimizer)
