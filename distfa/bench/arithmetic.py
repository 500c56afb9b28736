"""What a plain layer computes, by closed form: products and passes over memory, for one micro-batch of n rows.

Forward z = h W^T and gradient G = delta^T h at every layer; on the way down what the rule says (``Rule.cost``).
``distfa.core.layer`` is what this must agree with, and a test counts its FLOPs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from distfa.core import rules
from distfa.core.ledger import ends
from distfa.core.optim import OptimizerConfig
from distfa.core.recipe import Recipe
from distfa.core.rules.base import Rule
from distfa.core.rules.cost import Cost


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
    """Work that can be added up.

    Attributes:
        products: Matrix products.
        counted_flops: Of products that were only counted: convolutions, attention, a layer's own modules.
        passed_bytes: Read and written in passes over signals.
        updates: Steps of an optimizer, each with its own fixed cost.
        updated_bytes: Read and written by them.
        drawn: Random numbers drawn.
        calls: Tensor operations, each with its own fixed cost.
    """

    products: tuple[Product, ...] = ()
    counted_flops: int = 0
    passed_bytes: int = 0
    updates: int = 0
    updated_bytes: int = 0
    drawn: int = 0
    calls: int = 0

    def __add__(self, other: Effort) -> Effort:
        return Effort(
            products=self.products + other.products,
            counted_flops=self.counted_flops + other.counted_flops,
            passed_bytes=self.passed_bytes + other.passed_bytes,
            updates=self.updates + other.updates,
            updated_bytes=self.updated_bytes + other.updated_bytes,
            drawn=self.drawn + other.drawn,
            calls=self.calls + other.calls,
        )

    @property
    def flops(self) -> int:
        """Of all products."""
        return self.counted_flops + sum(product.flops for product in self.products)


class LayerWork:
    """What one layer does, and what it keeps for that; methods are of one micro-batch of n rows.

    Args:
        recipe: The run's.
        rule: Its rule.
        layer: Counted from 1.

    Attributes:
        parameters: Numbers in all its parameters.
        trained: Of those, how many are trained.
        learned: Numbers in feedback that it learns.
        feedback: Numbers in all feedback it keeps.
        books: Numbers in the fixed matrix of the boundary below, where the books of this layer need it.
    """

    def __init__(self, recipe: Recipe, rule: Rule, layer: int) -> None:
        self._recipe, self._rule, self._layer = recipe, rule, layer
        self._shape, self._size = recipe.network[layer], recipe.signal_dtype.itemsize
        self._above = rule.cost(layer) if layer < len(recipe.network) else Cost()
        sent = [rule.cost(boundary) for boundary in rule.sent_by.get(layer, ())]
        self.parameters, self.trained = self._shape.parameters, self._shape.trainable
        self.learned = self._above.learned
        self.feedback = self._above.learner_keeps + sum(cost.origin_keeps for cost in sent)
        self._drawn = sum(cost.drawn for cost in sent)
        below = layer > 1 and (layer, "upper") in ends(recipe, rule, layer - 1)
        self.books = rule.cost(layer - 1).books_keep if below else 0

    def forward(self, n: int) -> Effort:
        """h = phi(x W^T + b); the first layer also reads and scales its inputs, the last one scores."""
        shape, outputs, passes, calls = self._shape, n * self._shape.outputs, 0, 4
        if shape.activation.name != "identity":
            passes += 2 * outputs
        if self._layer == 1:
            passes, calls = passes + 8 * n * shape.inputs, calls + 6
        if self._layer == len(self._recipe.network):
            passes, calls = passes + 16 * outputs, calls + 16
        product = Product(n, shape.inputs, shape.outputs)
        return Effort(products=(product,), passed_bytes=passes * self._size, calls=calls)

    def teach(self, n: int) -> Effort:
        """delta_l = s_l * phi'(z_l), s_l from the message: at the learner."""
        outputs, products = self._shape.outputs, tuple[Product, ...]()
        calls, passes = 2, 3 * n * outputs
        if self._above.learner_multiplies:
            columns = self._above.learner_keeps // outputs
            products, calls = (Product(n, columns, outputs, "down"),), calls + 1
            if self._rule.reads_labels:
                passes, calls = passes + 2 * n * columns, calls + 4
        return Effort(products=products, passed_bytes=passes * self._size, calls=calls)

    def emit(self, boundary: int, n: int) -> Effort:
        """The message across ``boundary``: at its origin."""
        origin, cost = self._rule.origin(boundary), self._rule.cost(boundary)
        if origin is None or not cost.origin_multiplies:
            return Effort(calls=1)
        product = Product(n, self._recipe.network.sizes[origin], self._rule.width(boundary), "down")
        formed = 6 * cost.formed * self._size
        return Effort(products=(product,), passed_bytes=formed, calls=4 if formed else 2)

    def accumulate(self, n: int) -> Effort:
        """G = delta^T h_in; and that of B, where the layer learns it."""
        shape = self._shape
        products = [Product(shape.outputs, n, shape.inputs, "gradient")]
        if self.learned:
            products.append(Product(self.learned // shape.outputs, n, shape.outputs, "gradient"))
        passes = n * shape.outputs * self._size
        return Effort(products=tuple(products), passed_bytes=passes, calls=3 + len(products))

    def update(self) -> Effort:
        """The optimizer's pass over the layer's parameters, their copies for products, what is drawn for a step."""
        numbers, recipe = self.trained + self.learned, self._recipe
        return Effort(
            passed_bytes=numbers * (recipe.dtype.itemsize + self._size) if recipe.mixed else 0,
            updated_bytes=touched(recipe.optimizer) * numbers * recipe.dtype.itemsize,
            drawn=self._drawn,
            updates=2 if self.learned else 1,
        )

    def kept(self, n: int) -> int:
        """Bytes that the backward of a micro-batch needs of its forward."""
        shape = self._shape
        signals = shape.inputs + shape.outputs * (1 if shape.activation.name == "identity" else 2)
        if self.learned:
            signals += self._rule.width(self._layer)
        return n * signals * self._size


def check(recipe: Recipe, n: int, columns: int) -> Effort:
    """The look for NaN and infinity at what was received."""
    if not recipe.check_finite:
        return Effort()
    return Effort(passed_bytes=n * columns * recipe.signal_dtype.itemsize, calls=3)


def works(recipe: Recipe) -> tuple[LayerWork, ...]:
    """Of every layer of a network of plain layers, layer 1 first."""
    rule = rules.build(recipe)
    return tuple(LayerWork(recipe, rule, layer) for layer in range(1, len(recipe.network) + 1))


def step(recipe: Recipe) -> list[list[Product]]:
    """What every layer multiplies in one step of ``recipe.batch_size`` rows, layer 1 first."""
    rule, n, made = rules.build(recipe), recipe.batch_size, []
    for layer, work in enumerate(works(recipe), start=1):
        efforts = [work.forward(n), work.teach(n), work.accumulate(n)]
        efforts += [work.emit(boundary, n) for boundary in rule.sent_by.get(layer, ())]
        made.append([product for effort in efforts for product in effort.products])
    return made


def state_numbers(optimizer: OptimizerConfig) -> int:
    """Numbers an optimizer keeps per parameter."""
    if optimizer.name == "sgd":
        return 1 if optimizer.momentum else 0
    return 2


def touched(optimizer: OptimizerConfig) -> int:
    """Numbers an optimizer reads and writes per parameter: W twice, G once, its state twice."""
    return 3 + 2 * state_numbers(optimizer)
