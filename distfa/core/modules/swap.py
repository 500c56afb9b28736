"""Puts other tensors in place of weights in the backward pass through any module: feedback by saved-tensor hooks.

Autograd keeps a weight for the backward of every product it is in. While a forward is recorded here, autograd keeps a
note of *which* weight it was instead. When the graph is differentiated, the note is replaced with the current weight,
or with what stands in for it. So the forward runs torch's own kernels on the user's own module, and ``y = x W^T`` goes
back as ``delta B`` wherever W was used: in a Linear, a convolution, an attention.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from distfa.core.base.memory import lay_out_like
from distfa.errors import ModelError


class _Note(NamedTuple):
    """A view of a parameter that autograd wanted to keep; one of another dtype reads its numbers as complex pairs."""

    name: str
    dtype: torch.dtype
    size: torch.Size
    stride: tuple[int, ...]
    offset: int
    own: Tensor | None = None  # a copy, if the module changes the parameter itself


class _Saved(NamedTuple):
    """A tensor that autograd wanted to keep, and how often it had been changed in place by then."""

    tensor: Tensor
    version: int


class Swap:
    """Records forwards whose weights can be swapped in the backward pass.

    Args:
        parameters: The module's parameters, by name; they are always read anew in the backward pass, since under delays
            an update comes between a forward and its backward.
        moving: Names of those that the forward itself changes: the backward pass of each forward reads them as they
            were.
    """

    def __init__(self, parameters: Mapping[str, Tensor], moving: Collection[str] = ()) -> None:
        self._moving = moving
        self._parameters = {name: parameter.detach() for name, parameter in parameters.items()}
        self._names = {p.untyped_storage().data_ptr(): name for name, p in parameters.items() if p.numel()}
        self._held: set[int] = set()
        self._stand_in: Mapping[str, Tensor] = {}
        self.used: set[str] = set()

    def recording(self, held: Iterable[Tensor] = ()) -> AbstractContextManager[object]:
        """To be open around a forward.

        Args:
            held: Tensors that the module keeps and may change in place: the next forward may come before this one's way
                back, so that this one keeps copies of them.
        """
        self._held = {tensor.untyped_storage().data_ptr() for tensor in held if _is_in_memory(tensor)}
        return torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)

    @contextmanager
    def standing_in(self, stand_in: Mapping[str, Tensor]) -> Iterator[None]:
        """To be open around a differentiation: these tensors take the place of the weights of the same names."""
        self._stand_in = {name: lay_out_like(instead, self._parameters[name]) for name, instead in stand_in.items()}
        self.used = set()
        try:
            yield
        finally:
            self._stand_in = {}

    def _pack(self, kept: Tensor) -> _Saved | _Note:
        place = kept.untyped_storage().data_ptr() if kept.layout is torch.strided else 0
        name = self._names.get(place)
        lazily = kept.is_conj() or kept.is_neg()  # the numbers in memory are not yet those of the tensor
        if name is not None and not lazily:
            own = kept.detach().clone() if name in self._moving else None
            return _Note(name, kept.dtype, kept.size(), kept.stride(), int(kept.storage_offset()), own)
        saved = kept.detach()  # a reference to itself would hold the graph that holds it: nobody collects such a cycle
        if place in self._held or name is not None:
            saved = saved.clone()
        return _Saved(saved, saved._version)

    def _unpack(self, kept: _Saved | _Note) -> Tensor:
        if isinstance(kept, _Saved):
            return _require_unchanged(kept)
        self.used.add(kept.name)
        instead = self._stand_in.get(kept.name)
        if instead is None and kept.own is not None:
            return kept.own
        source = self._parameters[kept.name] if instead is None else instead
        if kept.dtype == source.dtype:
            return source.as_strided(kept.size, kept.stride, kept.offset)
        read = torch.empty(0, dtype=kept.dtype, device=source.device)
        return read.set_(source.untyped_storage(), kept.offset, kept.size, kept.stride)


class _Made(NamedTuple):
    """A tensor that autograd wanted to keep and that was made from parameters only."""

    saved: _Saved
    of: frozenset[str]


class TracedSwap(Swap):
    """Also tells which parameters the backward pass reads in another form: what was made from those is kept unchanged.

    Args:
        parameters: As for ``Swap``; each requires a gradient.

    Attributes:
        remade: Names of the parameters that the last backward pass read in another form.
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
            return _require_unchanged(kept.saved)
        return super()._unpack(kept)


def _require_unchanged(kept: _Saved) -> Tensor:
    """The tensor, if it still holds what it held: torch makes this check only where there are no hooks.

    Raises:
        ModelError: It was changed in place.
    """
    if kept.tensor._version != kept.version:
        raise ModelError(
            f"its forward pass changes in place (x.mul_(2), x += 1) a tensor of shape {tuple(kept.tensor.shape)} "
            "that the backward pass needs unchanged, which torch refuses, too; make a new tensor instead"
        )
    return kept.tensor


def _is_in_memory(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_meta and tensor.numel() > 0


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
