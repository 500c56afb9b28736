"""What a layer computes: which products and passes over memory, for one micro-batch of n rows.

Where a rule's products happen decides what it costs: bp and the sign rules multiply at the owner of W,
fa at whichever end makes the message narrower, dfa, kp and drtp at the layer that learns; low rank at
both. ``distfa.core.layer`` is what this must agree with, and a test counts its FLOPs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from distfa.core.optim import OptimizerConfig
from distfa.core.recipe import Recipe
from distfa.core.rules.base import Rule

_APPLIED_BY_THE_OWNER_OF_W = ("bp", "usf", "frsf", "brsf")
_BY_SIGNS = ("usf", "frsf", "brsf")


class Product(NamedTuple):
    """(rows, inner) times (inner, columns)."""

    rows: int
    inner: int
    columns: int

    @property
    def flops(self) -> int:
        """A multiplication and an addition each."""
        return 2 * self.rows * self.inner * self.columns

    @property
    def numbers(self) -> int:
        """Of both factors and the result."""
        return self.rows * self.inner + self.inner * self.columns + self.rows * self.columns


@dataclass(frozen=True, kw_only=True)
class Effort:
    """Work that can be added up.

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
    shape, products = recipe.network[layer], tuple[Product, ...]()
    calls, passes = 2, 3 * n * shape.outputs
    if layer < len(recipe.network):
        columns = recipe.network.sizes[-1] if rule.reads_labels else rule.width(layer)
        if at_learner(rule, layer):
            products, calls = (Product(n, columns, shape.outputs),), calls + 1
        if rule.reads_labels:
            passes, calls = passes + 2 * n * columns, calls + 4
    return Effort(products=products, passed_bytes=passes * recipe.signal_dtype.itemsize, calls=calls)


def emit(recipe: Recipe, rule: Rule, boundary: int, n: int) -> Effort:
    """The message across ``boundary``: at its origin."""
    origin = rule.origin(boundary)
    if origin is None or not at_origin(rule, boundary):
        return Effort(calls=1)
    inner, columns = recipe.network.sizes[origin], rule.width(boundary)
    weights = 6 * inner * columns * recipe.signal_dtype.itemsize if rule.name in _BY_SIGNS else 0  # |B| * sign W
    return Effort(products=(Product(n, inner, columns),), passed_bytes=weights, calls=4 if weights else 2)


def accumulate(recipe: Recipe, rule: Rule, layer: int, n: int) -> Effort:
    """G = delta^T h_in; and that of B, where the layer learns it."""
    shape = recipe.network[layer]
    products = [Product(shape.outputs, n, shape.inputs)]
    if rule.learns_feedback and layer < len(recipe.network):
        products.append(Product(rule.width(layer), n, shape.outputs))
    return Effort(
        products=tuple(products), passed_bytes=n * shape.outputs * recipe.signal_dtype.itemsize, calls=3 + len(products)
    )


def update(recipe: Recipe, rule: Rule, layer: int) -> Effort:
    """The optimizer's pass over the layer's parameters, their copies for products, what the rule draws for a step."""
    fresh = recipe.network[layer].outputs * recipe.network[layer].inputs if rule.name == "brsf" and layer > 1 else 0
    numbers = parameters(recipe, layer) + learned(recipe, rule, layer)
    return Effort(
        passed_bytes=numbers * (recipe.dtype.itemsize + recipe.signal_dtype.itemsize) if recipe.mixed else 0,
        updated_bytes=touched(recipe.optimizer) * numbers * recipe.dtype.itemsize,
        drawn=fresh,
        updates=2 if learned(recipe, rule, layer) else 1,
    )


def parameters(recipe: Recipe, layer: int) -> int:
    """Numbers in W_l and b_l."""
    shape = recipe.network[layer]
    return shape.outputs * (shape.inputs + (1 if shape.bias else 0))


def learned(recipe: Recipe, rule: Rule, layer: int) -> int:
    """Numbers in the feedback matrix that layer l updates as it does its weights."""
    if not rule.learns_feedback or layer == len(recipe.network):
        return 0
    return rule.width(layer) * recipe.network[layer].outputs


def state_numbers(optimizer: OptimizerConfig) -> int:
    """Numbers an optimizer keeps per parameter."""
    if optimizer.name == "sgd":
        return 1 if optimizer.momentum else 0
    return 2


def touched(optimizer: OptimizerConfig) -> int:
    """Numbers an optimizer reads and writes per parameter: W twice, G once, its state twice."""
    return 3 + 2 * state_numbers(optimizer)


def at_origin(rule: Rule, boundary: int) -> bool:
    """Whether the origin of ``boundary`` multiplies before it sends."""
    if rule.name in _APPLIED_BY_THE_OWNER_OF_W:
        return True
    below, above = _ends(rule, boundary)
    return rule.takes_rank and (rule.width(boundary) < min(below, above) or (not rule.is_direct and below < above))


def at_learner(rule: Rule, boundary: int) -> bool:
    """Whether the layer that learns multiplies what it received."""
    if rule.name in _APPLIED_BY_THE_OWNER_OF_W:
        return False
    below, above = _ends(rule, boundary)
    return rule.is_direct or not rule.takes_rank or rule.width(boundary) < min(below, above) or below >= above


def _ends(rule: Rule, boundary: int) -> tuple[int, int]:
    """Width of layer ``boundary``, and of the layer its message comes from."""
    sizes, origin = rule.network.sizes, rule.origin(boundary)
    return sizes[boundary], sizes[-1 if origin is None else origin]
