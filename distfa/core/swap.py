"""Puts other tensors in place of weights on the way back through any module: feedback by saved-tensor hooks.

Autograd keeps a weight for the backward of every product it is in. While a forward is recorded here, autograd keeps a
note of *which* weight it was instead. When the graph is differentiated, the note is replaced with the current weight,
or with what stands in for it. So the forward runs torch's own kernels on the user's own module, and ``y = x W^T`` goes
back as ``delta B`` wherever W was used: in a Linear, a convolution, an attention.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from distfa.core.memory import laid_like


class _Note(NamedTuple):
    """A view of a parameter that autograd wanted to keep."""

    name: str
    size: torch.Size
    stride: tuple[int, ...]
    offset: int


class Swap:
    """Records forwards whose weights can be swapped on the way back.

    Args:
        parameters: The module's parameters, by name; they are always read anew on the way back, since under delays an
            update comes between a forward and its backward.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._parameters = {name: parameter.detach() for name, parameter in parameters.items()}
        self._names = {p.untyped_storage().data_ptr(): name for name, p in parameters.items() if p.numel()}
        self._stand_in: Mapping[str, Tensor] = {}
        self.used: set[str] = set()

    def recording(self) -> AbstractContextManager[object]:
        """To be open around a forward."""
        return torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)

    @contextmanager
    def standing_in(self, stand_in: Mapping[str, Tensor]) -> Iterator[None]:
        """To be open around a differentiation: these tensors take the place of the weights of the same names."""
        self._stand_in = {name: laid_like(instead, self._parameters[name]) for name, instead in stand_in.items()}
        self.used = set()
        try:
            yield
        finally:
            self._stand_in = {}

    def _pack(self, kept: Tensor) -> Tensor | _Note:
        name = self._names.get(kept.untyped_storage().data_ptr()) if kept.layout is torch.strided else None
        if name is None:
            return (
                kept.detach()
            )  # a reference to itself would hold the graph that holds it: a cycle that nobody collects
        return _Note(name, kept.size(), kept.stride(), int(kept.storage_offset()))

    def _unpack(self, kept: Tensor | _Note) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        self.used.add(kept.name)
        instead = self._stand_in.get(kept.name)
        source = self._parameters[kept.name] if instead is None else instead
        return source.as_strided(kept.size, kept.stride, kept.offset)


class _Made(NamedTuple):
    """A tensor that autograd wanted to keep and that was made from parameters only."""

    tensor: Tensor
    of: frozenset[str]


class TracedSwap(Swap):
    """Also tells which parameters the way back reads in another form: what was made from those is kept unchanged.

    Args:
        parameters: As for ``Swap``; each requires a gradient.

    Attributes:
        remade: Names of the parameters that the last way back read in another form.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        super().__init__(parameters)
        self.remade: set[str] = set()

    def _pack(self, kept: Tensor) -> Any:
        packed = super()._pack(kept)
        if isinstance(packed, _Note) or kept.grad_fn is None:
            return packed
        leaves = _leaves(kept)
        of = frozenset(self._names.get(leaf.untyped_storage().data_ptr(), "") for leaf in leaves)
        return packed if "" in of else _Made(packed, of)  # a tensor that was also made from the input is a signal

    def _unpack(self, kept: Any) -> Tensor:
        if isinstance(kept, _Made):
            self.remade |= kept.of
            return kept.tensor
        return super()._unpack(kept)


def _leaves(tensor: Tensor) -> list[Tensor]:
    """The leaf tensors that a tensor was made from, according to autograd's graph."""
    seen, waiting, found = set(), [tensor.grad_fn], []
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            found.append(leaf)
        waiting += [following for following, _ in node.next_functions]
    return found
