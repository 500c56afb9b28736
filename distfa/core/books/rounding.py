"""How large the residual of an entry may be from rounding alone: the ledger's tolerance, derived and not tuned."""

from __future__ import annotations

import math

import torch

from distfa.core.base.optim import OptimizerConfig
from distfa.core.base.recipe import Recipe
from distfa.core.books.update import HalfSums, Number

_MARGIN = 8.0  # standard deviations of rounding that are accepted


class Rounding:
    """Bounds for the sums of one run.

    Args:
        recipe: The run's: its dtypes, and the longest sum in it.

    Attributes:
        epsilon: Of the dtype that weights and sums have.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.epsilon = torch.finfo(recipe.dtype).eps
        self._signals = torch.finfo(recipe.signal_dtype).eps / 2 if recipe.mixed else 0.0
        shapes, sizes = recipe.network.shapes, recipe.network.sizes
        places = max((math.prod(shape[1:]) for shape in shapes if len(shape) > 1), default=1)
        self._longest = max(recipe.batch_size * places, *sizes)

    def of_update(self, numbers: int, lr: float, total: HalfSums, config: OptimizerConfig) -> Number:
        """The bound for what an update did to the squares of a parameter.

        Each number of the parameter is rounded once per step, by up to eps/2 of itself, and this is multiplied by W or
        B; independent roundings add up as the square root of their count. The optimizer rounds relative to the update,
        matrix products relative to their terms. Decoupled decay multiplies all numbers by the one factor 1 - lr *
        decay, which is rounded once for all: that does not cancel.
        """
        stored = self.epsilon * total.size / math.sqrt(max(numbers, 1))
        products = self.of_products(lr * total.product, lr**2 * total.product_square)
        factor = self.epsilon / 2 * total.size if config.name == "adamw" and config.weight_decay else 0.0
        return _MARGIN * (stored + self.epsilon * total.update) + products + factor

    def of_products(self, magnitude: Number, square: Number) -> Number:
        """The bound for a sum of products of signals.

        eps of the dtype sums are made in, times the root of the longest sum, relative to the sum of magnitudes; and
        in a mixed run eps/2 of bfloat16 for every signal, weight and gradient: the root of a sum of squares.
        """
        return _MARGIN * (self.epsilon * math.sqrt(self._longest) * magnitude + self._signals * square**0.5)
