"""The work and the memory of a layer, counted while a real layer does it.

In a network that is drawn from the seed layers are counted on tensors that have a shape and no numbers, and of layers
that are alike only one. In any other network every layer runs one small micro-batch, which is scaled to others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from distfa.core import rules
from distfa.core.base.draw import NOT_DRAWN
from distfa.core.base.recipe import Recipe
from distfa.core.base.threads import use_threads
from distfa.core.layer import Layer
from distfa.costs.arithmetic import Effort, Product, count_touched

T = TypeVar("T")
Efforts = dict[str | int, Effort]
"""Of one micro-batch: forward, teach, accumulate; and by number the errors it sends, the lowest boundary first."""

_ROWS = 8
_PART = (0, 0)
_NONE: Mapping[int, nn.Module] = MappingProxyType({})
_PRODUCTS = {torch.ops.aten.mm: 0, torch.ops.aten.addmm: 1}  # and the place of the left factor


class LayerWork:
    """The work of one layer, and the memory it takes; methods are for one micro-batch of n rows.

    Args:
        recipe: The run's.
        layer: The layer, at its first step.
        efforts: Gives all efforts for n rows.
        kept: Gives the bytes that the backward of n rows needs from their forward.

    Attributes:
        sends_to: The boundaries across which it sends errors.
        parameters: Numbers in all its parameters.
        trained: How many of those are trained.
        learned: Numbers in feedback that it learns.
        feedback: Numbers in all feedback it keeps.
        books: Numbers in the fixed matrix of the boundary below, if the books of this layer need it.
    """

    def __init__(
        self, recipe: Recipe, layer: Layer, *, efforts: Callable[[int], Efforts], kept: Callable[[int], int]
    ) -> None:
        self._recipe, self._efforts, self.kept = recipe, efforts, kept
        ends, self.sends_to = layer.ends, layer.sends_to
        self.parameters, self.trained = layer.spec.parameters, layer.spec.trainable
        self.learned = _numbers(operand.master for operand in ends.learned.values())
        self.feedback = _numbers(ends.tensors())
        law = ends.matrix_of_the_law() if layer.rule.potential else None
        self.books = 0 if law is None else law.numel()
        redrawn = self.sends_to if layer.rule.redraws else ()
        self._drawn = _numbers(value for boundary in redrawn for value in ends.origin[boundary].values())

    def forward(self, n: int) -> Effort:
        """h from h_{l-1}; the first layer also reads its inputs, the last one scores."""
        return self._efforts(n)["forward"]

    def teach(self, n: int) -> Effort:
        """The layer's backward pass begins, with s_l from the message."""
        return self._efforts(n)["teach"]

    def emit(self, boundary: int, n: int) -> Effort:
        """At the origin: the message across ``boundary``."""
        return self._efforts(n)[self.sends_to.index(boundary)]

    def accumulate(self, n: int) -> Effort:
        """The layer's own gradient, or what is left to do of it, and that of feedback it learns."""
        return self._efforts(n)["accumulate"]

    def update(self) -> Effort:
        """The optimizer's pass over the layer's parameters, their copies for products, and what is drawn for a step."""
        numbers, recipe = self.trained + self.learned, self._recipe
        copied = recipe.dtype.itemsize + recipe.signal_dtype.itemsize if recipe.mixed else 0
        return Effort(
            passed_bytes=numbers * copied,
            updated_bytes=count_touched(recipe.optimizer) * numbers * recipe.dtype.itemsize,
            drawn=self._drawn,
            updates=2 if self.learned else 1,
        )


def works(recipe: Recipe, modules: Mapping[int, nn.Module] = _NONE) -> tuple[LayerWork, ...]:
    """The work of every layer of any network, layer 1 first.

    Args:
        recipe: The run's; its micro-batches, schedule and books do not matter.
        modules: The modules of every layer, for a network that is not drawn from the seed.
    """
    alike = replace(recipe.without_books(), micro_batches=1, schedule="sync")
    if recipe.network.seeded:
        return _plain_works(replace(alike, init="random", seed=NOT_DRAWN))
    return tuple(_work(alike, layer, modules[layer]) for layer in range(1, len(recipe.network) + 1))


def step(recipe: Recipe) -> list[list[Product]]:
    """The products of every layer in one step of ``recipe.batch_size`` rows, layer 1 first; for plain layers."""
    n, made = recipe.batch_size, []
    for work in works(recipe):
        efforts = [work.forward(n), work.teach(n), work.accumulate(n)]
        efforts += [work.emit(boundary, n) for boundary in work.sends_to]
        made.append([product for effort in efforts for product in effort.products])
    return made


# -- a layer of any modules -------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _work(recipe: Recipe, index: int, module: nn.Module) -> LayerWork:
    layer, rows = Layer(recipe, index, module=module), min(_ROWS, recipe.batch_size)
    with use_threads():
        efforts, made_bytes = _count(layer, rows)

    def scaled(n: int) -> Efforts:
        """The same operations, on more or fewer numbers."""
        share = n / rows
        return {
            part: Effort(
                counted_flops=round(effort.flops * share),
                passed_bytes=round(effort.passed_bytes * share),
                calls=effort.calls,
            )
            for part, effort in efforts.items()
        }

    return LayerWork(recipe, layer, efforts=scaled, kept=lambda n: made_bytes * n // rows)


def _count(layer: Layer, n: int) -> tuple[Efforts, int]:
    """The efforts of a micro-batch of n rows, and the bytes of all that its forward makes."""
    spec, network, rule, device = layer.spec, layer.rule.network, layer.rule, layer.device
    tokens = network.tokens and layer.index == 1
    x = torch.zeros(n, *spec.input_shape, dtype=torch.int64) if tokens else torch.randn(n, *spec.input_shape)
    layer.begin_step(0)
    h, forward, made_bytes = count_work(lambda: layer.forward(x.to(device), _PART), "forward")
    target = torch.zeros(n, *network.positions, dtype=torch.int64, device=device)
    if rule.recipe.loss != "cross_entropy":
        target = torch.zeros(n, *network.shapes[-1], device=device)
    if not layer.is_output:
        message = layer.label_message(target, n) if rule.reads_labels else torch.randn(n, *rule.shape(layer.index))
        message = message.to(device, rule.recipe.signal_dtype)
        delta, teach, _ = count_work(lambda: layer.hidden_delta(message, _PART), "down")
    elif device.type == "meta":  # a loss is a number
        delta, teach = torch.empty_like(h), Effort()
    else:
        scored, scoring, _ = count_work(lambda: layer.score(h, target, n), "forward")
        forward += scoring
        delta, teach, _ = count_work(lambda: layer.output_delta(scored, _PART), "down")
    sent = [count_work(partial(layer.emit, b, delta, _PART), "down")[1] for b in layer.sends_to]
    accumulate = count_work(lambda: layer.accumulate(delta, _PART), "gradient")[1]
    return {"forward": forward, "teach": teach, "accumulate": accumulate, **dict(enumerate(sent))}, made_bytes


# -- a plain layer ----------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _plain_works(recipe: Recipe) -> tuple[LayerWork, ...]:
    made = partial(Layer, recipe, device="meta", rule=rules.build_rule(recipe))
    known: dict[tuple[object, ...], Efforts] = {}
    return tuple(_plain_work(made, index, known) for index in range(1, len(recipe.network) + 1))


def _plain_work(made: Callable[[int], Layer], index: int, known: dict[tuple[object, ...], Efforts]) -> LayerWork:
    layer = made(index)
    layer.begin_step(0)
    spec, recipe, place = layer.spec, layer.rule.recipe, (index == 1, layer.is_output, len(layer.sends_to))
    feedback = tuple(tensor.shape for tensor in layer.ends.tensors())
    kind = (place, spec.inputs, spec.outputs, spec.activation, spec.bias, feedback)

    def efforts(n: int) -> Efforts:
        if (*kind, n) not in known:
            known[*kind, n] = _plain_efforts(made(index), n)
        return known[*kind, n]

    signals = spec.inputs + spec.outputs * (1 if spec.activation.name == "identity" else 2)
    if layer.ends.learned:
        signals += layer.rule.width(index)
    return LayerWork(recipe, layer, efforts=efforts, kept=lambda n: n * signals * recipe.signal_dtype.itemsize)


def _plain_efforts(layer: Layer, n: int) -> Efforts:
    """The products as they are counted; passes and calls by what ``distfa plan --calibrate`` divides their time by.

    Calibrations and the figures of docs/plan.md rest on these numbers: a pass for every time that a signal is read or
    written, a call for every tensor operation and for what Python does around a few.
    """
    spec, found, size = layer.spec, _count(layer, n)[0], layer.rule.recipe.signal_dtype.itemsize
    inputs, outputs, is_first = n * spec.inputs, n * spec.outputs, layer.index == 1
    reads_labels = layer.rule.reads_labels and not layer.is_output

    def said(part: str | int, *, calls: int, passes: int) -> None:
        found[part] = replace(found[part], passed_bytes=passes * size, calls=calls)

    activated = 0 if spec.activation.name == "identity" else 2 * outputs
    scored = 16 if layer.is_output else 0
    said(
        "forward",
        calls=4 + (6 if is_first else 0) + scored,
        passes=activated + (8 * inputs if is_first else 0) + scored * outputs,
    )
    said(
        "teach",
        calls=2 + len(found["teach"].products) + (4 if reads_labels else 0),
        passes=3 * outputs + (2 * n * layer.rule.network.sizes[-1] if reads_labels else 0),
    )
    said("accumulate", calls=3 + len(found["accumulate"].products), passes=outputs)
    for number, boundary in enumerate(layer.sends_to):
        held = layer.ends.origin[boundary]
        used = layer.rule.stand_in(held, layer.block.weights())
        formed = _numbers(value for name, value in used.items() if value is not held[name])
        said(number, calls=4 if formed else 1 + len(found[number].products), passes=6 * formed)
    return found


# -- counting ---------------------------------------------------------------------------------------


class _Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts products, the FLOPs of other products, calls, and the bytes that operations read, write and make.

    torch's ``FlopCounterMode`` puts hooks on modules, which fails if a backward pass is inside a forward; its formulas
    are used here.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls = self.flops = self.passed_bytes = self.made_bytes = 0
        self.products: list[tuple[int, int, int]] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch loads its compiler, which takes more than a second, to leave this class out

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation, and count it."""
        kwargs = kwargs or {}
        if func._overloadpacket not in flop_registry:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        self.calls += 1
        read, written = (
            [_in_memory(leaf) for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
            for tree in ((args, kwargs), out)
        )
        places = {tensor.untyped_storage().data_ptr() for tensor in read}
        made = [tensor for tensor in written if tensor.untyped_storage().data_ptr() not in places]
        self.made_bytes += sum(tensor.nbytes for tensor in made)
        if func._overloadpacket is torch.ops.aten._sparse_addmm:
            self.flops += 2 * args[1]._nnz() * out.shape[1]
        elif func._overloadpacket in flop_registry:
            if (place := _PRODUCTS.get(func._overloadpacket)) is None:
                self.flops += flop_registry[func._overloadpacket](*args, **kwargs, out_val=out)
            else:
                left, right = args[place : place + 2]
                self.products.append((*left.shape, right.shape[1]))
        elif made or func._schema.is_mutable:  # else it is a view
            self.passed_bytes += sum(tensor.nbytes for tensor in (*read, *written))
        return out


def count_work(work: Callable[[], T], kind: str = "") -> tuple[T, Effort, int]:
    """The result of a piece of work, its effort with products of this kind, and the bytes of the tensors it made."""
    meter = _Meter()
    with meter:
        result = work()
    products = tuple(Product(*shape, kind) for shape in meter.products)
    effort = Effort(products=products, counted_flops=meter.flops, passed_bytes=meter.passed_bytes, calls=meter.calls)
    return result, effort, meter.made_bytes


def _in_memory(tensor: Tensor) -> Tensor:
    """The tensor; of a sparse one its values."""
    return tensor._values() if tensor.is_sparse else tensor


def _numbers(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)
