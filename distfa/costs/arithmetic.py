"""What a plain layer computes, in closed form: products and passes over memory, for one micro-batch of n rows.

Every layer computes the forward z = h W^T and the gradient G = delta^T h; on the way down it computes what the rule
says (``Rule.cost``). This must agree with ``distfa.core.layer``, and a test counts the FLOPs there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from distfa.core import rules
from distfa.core.base.optim import OptimizerConfig
from distfa.core.base.recipe import Recipe
from distfa.core.books.ledger import ends
from distfa.core.rules.base import Rule
from distfa.core.rules.cost import Cost


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
        """FLOPs of all products."""
        return self.counted_flops + sum(product.flops for product in self.products)


class LayerWork:
    """What one layer does, and what it keeps for that; methods are for one micro-batch of n rows.

    Args:
        recipe: The run's.
        rule: The rule of the run.
        layer: The layer, counted from 1.

    Attributes:
        parameters: Numbers in all its parameters.
        trained: How many of those are trained.
        learned: Numbers in feedback that it learns.
        feedback: Numbers in all feedback it keeps.
        books: Numbers in the fixed matrix of the boundary below, if the books of this layer need it.
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
        """At the learner: delta_l = s_l * phi'(z_l), with s_l from the message."""
        outputs, products = self._shape.outputs, tuple[Product, ...]()
        calls, passes = 2, 3 * n * outputs
        if self._above.learner_multiplies:
            columns = self._above.learner_keeps // outputs
            products, calls = (Product(n, columns, outputs, "down"),), calls + 1
            if self._rule.reads_labels:
                passes, calls = passes + 2 * n * columns, calls + 4
        return Effort(products=products, passed_bytes=passes * self._size, calls=calls)

    def emit(self, boundary: int, n: int) -> Effort:
        """At the origin: the message across ``boundary``."""
        origin, cost = self._rule.origin(boundary), self._rule.cost(boundary)
        if origin is None or not cost.origin_multiplies:
            return Effort(calls=1)
        product = Product(n, self._recipe.network.sizes[origin], self._rule.width(boundary), "down")
        formed = 6 * cost.formed * self._size
        return Effort(products=(product,), passed_bytes=formed, calls=4 if formed else 2)

    def accumulate(self, n: int) -> Effort:
        """G = delta^T h_in; also that of B, if the layer learns it."""
        shape = self._shape
        products = [Product(shape.outputs, n, shape.inputs, "gradient")]
        if self.learned:
            products.append(Product(self.learned // shape.outputs, n, shape.outputs, "gradient"))
        passes = n * shape.outputs * self._size
        return Effort(products=tuple(products), passed_bytes=passes, calls=3 + len(products))

    def update(self) -> Effort:
        """The optimizer's pass over the layer's parameters, their copies for products, and what is drawn for a step."""
        numbers, recipe = self.trained + self.learned, self._recipe
        return Effort(
            passed_bytes=numbers * (recipe.dtype.itemsize + self._size) if recipe.mixed else 0,
            updated_bytes=touched(recipe.optimizer) * numbers * recipe.dtype.itemsize,
            drawn=self._drawn,
            updates=2 if self.learned else 1,
        )

    def kept(self, n: int) -> int:
        """Bytes that the backward of a micro-batch needs from its forward."""
        shape = self._shape
        signals = shape.inputs + shape.outputs * (1 if shape.activation.name == "identity" else 2)
        if self.learned:
            signals += self._rule.width(self._layer)
        return n * signals * self._size


def check(recipe: Recipe, n: int, columns: int) -> Effort:
    """The check of what was received for NaN and infinity."""
    if not recipe.check_finite:
        return Effort()
    return Effort(passed_bytes=n * columns * recipe.signal_dtype.itemsize, calls=3)


def works(recipe: Recipe) -> tuple[LayerWork, ...]:
    """The work of every layer of a network of plain layers, layer 1 first."""
    rule = rules.build_rule(recipe)
    return tuple(LayerWork(recipe, rule, layer) for layer in range(1, len(recipe.network) + 1))


def step(recipe: Recipe) -> list[list[Product]]:
    """The products of every layer in one step of ``recipe.batch_size`` rows, layer 1 first."""
    rule, n, made = rules.build_rule(recipe), recipe.batch_size, []
    for layer, work in enumerate(works(recipe), start=1):
        efforts = [work.forward(n), work.teach(n), work.accumulate(n)]
        efforts += [work.emit(boundary, n) for boundary in rule.sent_by.get(layer, ())]
        made.append([product for effort in efforts for product in effort.products])
    return made


def state_numbers(optimizer: OptimizerConfig) -> int:
    """Numbers that an optimizer keeps per parameter."""
    if optimizer.name == "sgd":
        return 1 if optimizer.momentum else 0
    return 3 if optimizer.amsgrad else 2


def touched(optimizer: OptimizerConfig) -> int:
    """Numbers that an optimizer reads and writes per parameter: W twice, G once, its state twice."""
    return 3 + 2 * state_numbers(optimizer)
