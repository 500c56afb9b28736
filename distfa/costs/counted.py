"""What a layer of any modules computes: counted for one small micro-batch and scaled to others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from distfa.core import rules
from distfa.core.base.recipe import Recipe
from distfa.core.base.threads import one_thread
from distfa.core.layer import Layer
from distfa.costs import arithmetic
from distfa.costs.arithmetic import Effort, LayerWork

T = TypeVar("T")
_ROWS = 8
_PART = (0, 0)


def works(recipe: Recipe, modules: Mapping[int, nn.Module]) -> tuple[LayerWork, ...]:
    """The work of every layer of any network, layer 1 first: in closed form if layers are plain, else counted.

    Args:
        recipe: The run's.
        modules: The modules of every layer, for a network that is not drawn from the seed.
    """
    if recipe.network.seeded:
        return arithmetic.works(recipe)
    alike = replace(recipe.without_books(), micro_batches=1, schedule="sync")
    return tuple(_counted(alike, layer, modules[layer]) for layer in range(1, len(recipe.network) + 1))


class CountedWork(LayerWork):
    """The work of a layer of any modules: products by torch's counter, passes by the tensors it reads and writes.

    Args:
        recipe: The run's; its micro-batches, schedule and books do not matter.
        layer: The layer, counted from 1.
        module: The modules of the layer.
    """

    def __init__(self, recipe: Recipe, layer: int, module: nn.Module) -> None:
        super().__init__(recipe, rules.build_rule(recipe), layer)
        made = Layer(recipe, layer, module=module)
        self._rows = min(_ROWS, recipe.batch_size)
        with one_thread():
            self._count(made)
        self.learned = _numbers(operand.master for operand in made.ends.learned.values())
        self.feedback = _numbers(made.ends.tensors())
        law = made.ends.matrix_of_the_law() if self._rule.potential else None
        self.books = 0 if law is None else law.numel()
        redrawn = [boundary for boundary in made.sends_to if self._rule.cost(boundary).drawn]
        self._drawn = _numbers(value for boundary in redrawn for value in made.ends.origin[boundary].values())

    def forward(self, n: int) -> Effort:
        """h from h_{l-1}; the last layer also scores."""
        return self._of(self._forward, n)

    def teach(self, n: int) -> Effort:
        """The layer's way back begins, with s_l from the message."""
        return self._of(self._teach, n)

    def emit(self, boundary: int, n: int) -> Effort:
        """At the origin: the message across ``boundary``, by the way back through its modules."""
        return self._of(self._emit[boundary], n)

    def accumulate(self, n: int) -> Effort:
        """The layer's own gradient, or what is left to do of it, and that of feedback it learns."""
        return self._of(self._accumulate, n)

    def kept(self, n: int) -> int:
        """Bytes of everything the forward makes, which is at least what its backward needs."""
        return self._made_bytes * n // self._rows

    def _count(self, layer: Layer) -> None:
        n, spec, network = self._rows, self._shape, self._recipe.network
        tokens = network.tokens and self._layer == 1
        x = torch.zeros(n, *spec.input_shape, dtype=torch.int64) if tokens else torch.randn(n, *spec.input_shape)
        layer.begin_step(0)
        h, self._forward, self._made_bytes = _counting(lambda: layer.forward(x, _PART))
        target = torch.zeros(n, *network.positions, dtype=torch.int64)
        if self._recipe.loss != "cross_entropy":
            target = torch.zeros(n, *network.shapes[-1])
        if layer.is_output:
            scored, scoring, _ = _counting(lambda: layer.score(h, target, n))
            self._forward += scoring
            delta, self._teach, _ = _counting(lambda: layer.output_delta(scored, _PART))
        else:
            message = (
                layer.label_message(target, n)
                if self._rule.reads_labels
                else torch.randn(n, *self._rule.shape(self._layer)).to(self._recipe.signal_dtype)
            )
            delta, self._teach, _ = _counting(lambda: layer.hidden_delta(message, _PART))
        self._emit = {b: _counting(partial(layer.emit, b, delta, _PART))[1] for b in layer.sends_to}
        self._accumulate = _counting(lambda: layer.accumulate(delta, _PART))[1]

    def _of(self, effort: Effort, n: int) -> Effort:
        """The effort for n rows: the same operations, on more or fewer numbers."""
        share = n / self._rows
        return replace(
            effort,
            counted_flops=round(effort.counted_flops * share),
            passed_bytes=round(effort.passed_bytes * share),
        )


@lru_cache(maxsize=256)
def _counted(recipe: Recipe, layer: int, module: nn.Module) -> CountedWork:
    return CountedWork(recipe, layer, module)


class _Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts tensor operations, the FLOPs of products, and the bytes that all others read, write and make.

    torch's ``FlopCounterMode`` puts hooks on modules, which fails if a way back is inside a forward; its formulas are
    used here.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls = self.flops = self.passed_bytes = self.made_bytes = 0

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
            [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)] for tree in ((args, kwargs), out)
        )
        places = {tensor.untyped_storage().data_ptr() for tensor in read}
        made = [tensor for tensor in written if tensor.untyped_storage().data_ptr() not in places]
        self.made_bytes += sum(tensor.nbytes for tensor in made)
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **kwargs, out_val=out)
        elif made or func._schema.is_mutable:  # else it is a view
            self.passed_bytes += sum(tensor.nbytes for tensor in (*read, *written))
        return out


def _counting(work: Callable[[], T]) -> tuple[T, Effort, int]:
    """What a piece of work returns, its effort, and the bytes of the tensors it made."""
    meter = _Meter()
    with meter:
        result = work()
    effort = Effort(counted_flops=meter.flops, passed_bytes=meter.passed_bytes, calls=meter.calls)
    return result, effort, meter.made_bytes


def _numbers(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)
