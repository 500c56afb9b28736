"""What a layer computes: which products and passes over memory, for one micro-batch of n rows.

Forward z = h W^T and gradient G = delta^T h at every layer; on the way down what the rule says (``Rule.cost``).
``distfa.core.layer`` is what this must agree with, and a test counts its FLOPs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from distfa.core import rules
from distfa.core.optim import OptimizerConfig
from distfa.core.recipe import Recipe
from distfa.core.rules.base import Rule
from distfa.core.rules.cost import Cost

_NOTHING = Cost()


class Product(NamedTuple):
    """(rows, inner) times (inner, columns).

    Attributes:
        kind: How the factors lie in memory: ``forward``: h by W^T; ``gradient``: delta^T by h; ``down``: as they are.
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
        """A multiplication and an addition each."""
        return 2 * self.rows * self.inner * self.columns

    @property
    def numbers(self) -> int:
        """Of both factors and the result."""
        return self.rows * self.inner + self.inner * self.columns + self.rows * self.columns

    def factors(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Random ones, as they lie in memory."""
        generator = torch.Generator().manual_seed(0)

        def drawn(rows: int, columns: int, *, turned: bool) -> torch.Tensor:
            matrix = torch.randn(*((columns, rows) if turned else (rows, columns)), generator=generator, dtype=dtype)
            return matrix.t() if turned else matrix

        left = drawn(self.rows, self.inner, turned=self.kind == "gradient")
        return left, drawn(self.inner, self.columns, turned=self.kind == "forward")


@dataclass(frozen=True, kw_only=True)
class Effort:
    """Task that can be added up.

    Attributes:
        products: Matrix products.
        passed_bytes: Read and written in passes over signals.
        updates: Steps of an optimizer, each with its own fixed cost.
        updated_bytes: Read and written by them.
        drawn: Random numbers drawn.
        calls: Tensor operations, each with its own fixed cost.
    """

    products: tuple[Product, ...] = ()
    passed_bytes: int = 0
    updates: int = 0
    updated_bytes: int = 0
    drawn: int = 0
    calls: int = 0

    def __add__(self, other: Effort) -> Effort:
        return Effort(
            products=self.products + other.products,
            passed_bytes=self.passed_bytes + other.passed_bytes,
            updates=self.updates + other.updates,
            updated_bytes=self.updated_bytes + other.updated_bytes,
            drawn=self.drawn + other.drawn,
            calls=self.calls + other.calls,
        )

    @property
    def flops(self) -> int:
        """Of all products."""
        return sum(product.flops for product in self.products)


def forward(recipe: Recipe, layer: int, n: int) -> Effort:
    """h = phi(x W^T + b); the first layer also reads and scales its inputs, the last one scores."""
    shape, size = recipe.network[layer], recipe.signal_dtype.itemsize
    outputs, passes, calls = n * shape.outputs, 0, 4
    if shape.activation.name != "identity":
        passes += 2 * outputs
    if layer == 1:
        passes, calls = passes + 8 * n * shape.inputs, calls + 6
    if layer == len(recipe.network):
        passes, calls = passes + 16 * outputs, calls + 16
    return Effort(products=(Product(n, shape.inputs, shape.outputs),), passed_bytes=passes * size, calls=calls)


def check(recipe: Recipe, n: int, columns: int) -> Effort:
    """The look for NaN and infinity at what was received."""
    if not recipe.check_finite:
        return Effort()
    return Effort(passed_bytes=n * columns * recipe.signal_dtype.itemsize, calls=3)


def teach(recipe: Recipe, rule: Rule, layer: int, n: int) -> Effort:
    """delta_l = s_l * phi'(z_l), s_l from the message: at the learner."""
    shape, cost, products = recipe.network[layer], _above(rule, layer), tuple[Product, ...]()
    calls, passes = 2, 3 * n * shape.outputs
    if cost.learner_multiplies:
        columns = cost.learner_keeps // shape.outputs
        products, calls = (Product(n, columns, shape.outputs, "down"),), calls + 1
        if rule.reads_labels:
            passes, calls = passes + 2 * n * columns, calls + 4
    return Effort(products=products, passed_bytes=passes * recipe.signal_dtype.itemsize, calls=calls)


def emit(recipe: Recipe, rule: Rule, boundary: int, n: int) -> Effort:
    """The message across ``boundary``: at its origin."""
    origin, cost = rule.origin(boundary), rule.cost(boundary)
    if origin is None or not cost.origin_multiplies:
        return Effort(calls=1)
    product = Product(n, recipe.network.sizes[origin], rule.width(boundary), "down")
    formed = 6 * cost.formed * recipe.signal_dtype.itemsize
    return Effort(products=(product,), passed_bytes=formed, calls=4 if formed else 2)


def accumulate(recipe: Recipe, rule: Rule, layer: int, n: int) -> Effort:
    """G = delta^T h_in; and that of B, where the layer learns it."""
    shape = recipe.network[layer]
    products = [Product(shape.outputs, n, shape.inputs, "gradient")]
    if learned := _above(rule, layer).learned:
        products.append(Product(learned // shape.outputs, n, shape.outputs, "gradient"))
    return Effort(
        products=tuple(products), passed_bytes=n * shape.outputs * recipe.signal_dtype.itemsize, calls=3 + len(products)
    )


def update(recipe: Recipe, rule: Rule, layer: int) -> Effort:
    """The optimizer's pass over the layer's parameters, their copies for products, what the rule draws for a step."""
    learned = _above(rule, layer).learned
    numbers = parameters(recipe, layer) + learned
    return Effort(
        passed_bytes=numbers * (recipe.dtype.itemsize + recipe.signal_dtype.itemsize) if recipe.mixed else 0,
        updated_bytes=touched(recipe.optimizer) * numbers * recipe.dtype.itemsize,
        drawn=sum(rule.cost(boundary).drawn for boundary in rule.sent_by.get(layer, ())),
        updates=2 if learned else 1,
    )


def step(recipe: Recipe) -> list[list[Product]]:
    """What every layer multiplies in one step of ``recipe.batch_size`` rows, layer 1 first."""
    rule, n, made = rules.build(recipe), recipe.batch_size, []
    for layer in range(1, len(recipe.network) + 1):
        efforts = [forward(recipe, layer, n), teach(recipe, rule, layer, n), accumulate(recipe, rule, layer, n)]
        efforts += [emit(recipe, rule, boundary, n) for boundary in rule.sent_by.get(layer, ())]
        made.append([product for effort in efforts for product in effort.products])
    return made


def parameters(recipe: Recipe, layer: int) -> int:
    """Numbers in W_l and b_l."""
    shape = recipe.network[layer]
    return shape.outputs * (shape.inputs + (1 if shape.bias else 0))


def state_numbers(optimizer: OptimizerConfig) -> int:
    """Numbers an optimizer keeps per parameter."""
    if optimizer.name == "sgd":
        return 1 if optimizer.momentum else 0
    return 2


def touched(optimizer: OptimizerConfig) -> int:
    """Numbers an optimizer reads and writes per parameter: W twice, G once, its state twice."""
    return 3 + 2 * state_numbers(optimizer)


def _above(rule: Rule, layer: int) -> Cost:
    """Of the boundary above a layer; the output layer has none."""
    return rule.cost(layer) if layer < len(rule.network) else _NOTHING
