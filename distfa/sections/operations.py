"""One operation of a trace, carried out for both batches, and what that tells of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate
from torch.utils._pytree import tree_leaves

from distfa.core.modules.parameters import JOINING
from distfa.core.modules.section import rows_of
from distfa.costs.arithmetic import Effort
from distfa.costs.counted import count_work
from distfa.sections.proxies import FOLLOWS_INPUT, ROWS, Known

Key = tuple[str, ...]
"""Where an operation is: the calls it is in, and itself, each with its number among its like."""

_PER_BYTE = 4  # operations that take as long as a byte that is read or written


@dataclass(frozen=True, kw_only=True)
class Traits:
    """The facts about an operation and the value that it makes.

    Attributes:
        key: Where it is.
        path: Name of the module that is called, or in whose forward the operation is.
        shape: Of one sample, if it makes a floating-point tensor whose first axis is the rows; else None.
        signal: Whether it depends on data, on draws or on state that changes: then it is carried out once.
        constant: Whether it gives the same in every call.
        is_size: Whether it is a number made from the number of rows and from constants.
        weighted: Whether it is made from parameters, and is no signal.
        opens: Whether a layer can begin with it: it has weights, and works on a signal.
        reads: Names of the model's tensors that it reads itself.
        memory: Tells memory apart: two values with the same one may overlap; a name if it is the model's.
        changes: The memory that it changes in place.
        cost: Counted operations for one sample.
    """

    key: Key
    path: str
    shape: tuple[int, ...] | None = None
    signal: bool = False
    constant: bool = False
    is_size: bool = False
    weighted: bool = False
    opens: bool = False
    reads: frozenset[str] = frozenset()
    memory: object = None
    changes: frozenset[object] = frozenset()
    cost: int = 0


def traits(node: fx.Node) -> Traits:
    """The traits of a node, as the trace found them."""
    found: Traits = node.meta["traits"]
    return found


class Operation:
    """Carries an operation out.

    Args:
        kind: As of a node of torch.fx.
        target: As of a node.
        arguments: (args, kwargs), in which signals are ``Known``.
        root: The model.
        evaluating: To be open meanwhile.

    Attributes:
        values: What it gives for each batch.
        changed: Names of the buffers of a module that it changes, in that module.
    """

    def __init__(
        self,
        kind: str,
        target: Any,
        arguments: tuple[Any, Any],
        root: nn.Module,
        evaluating: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._kind, self._target, self._arguments, self._evaluating = kind, target, arguments, evaluating
        self._module = root.get_submodule(target) if kind == "call_module" else None
        self._given: list[Known] = []
        map_aggregate(arguments, lambda leaf: self._given.append(leaf) if isinstance(leaf, Known) else None)
        self._tensors = [_tensors(known.values[0]) for known in self._given]
        if kind == "get_attr":
            prefix, _, name = target.rpartition(".")
            with evaluating():
                held = getattr(root.get_submodule(prefix), name)
            self.values, self._draws, self._efforts = (held, held), False, [Effort(), Effort()]
            self.changed, self._moved = frozenset[str](), list[bool]()
            return
        buffers, versions = self._versions(), [_versions(tensors) for tensors in self._tensors]
        runs = [self._run(batch) for batch in range(len(ROWS))]
        self.values = (runs[0][0], runs[1][0])
        self._draws, self._efforts = runs[0][1], [effort for *_, effort in runs]
        self.changed = frozenset(name for name, now in self._versions().items() if buffers.get(name) != now)
        self._moved = [_versions(t) != was for t, was in zip(self._tensors, versions, strict=True)]

    def traits(self, node: fx.Node, key: Key, path: str, names: Mapping[int, str]) -> Traits:
        """The traits that it found.

        Args:
            node: Its node.
            key: Where it is.
            path: The module that it belongs to.
            names: The model's tensors, by their ``id``.
        """
        given = [traits(known.node) for known in self._given]
        reads, follows = self._kind == "get_attr", self._follows_input(node)
        changes = frozenset(each.memory for each, moved in zip(given, self._moved, strict=True) if moved)
        alters = bool(self.changed) or any(isinstance(memory, str) for memory in changes)
        signal = self._draws or alters or (not follows and any(each.signal for each in given))
        parameters = [] if self._module is None else [*self._module.parameters()]
        own = bool(parameters) or (reads and isinstance(self.values[0], nn.Parameter))
        weighted = own or any(each.weighted for each in given)
        works = any(each.signal for each in given) and not follows
        products = has_weights(self._module) if self._module else self._efforts[0].flops > 0
        return Traits(
            key=key,
            path=path,
            shape=_shape_of_sample(self.values),
            signal=signal,
            constant=not (signal or follows or reads or own) and all(each.constant for each in given),
            is_size=self._target is rows_of or (bool(given) and all(each.is_size or each.constant for each in given)),
            weighted=weighted and not signal,
            opens=works and weighted and products,
            reads=self._reads(names),
            memory=self._memory(node, given),
            changes=changes,
            cost=max(0, count_operations(self._efforts[1]) - count_operations(self._efforts[0])),
        )

    def _run(self, batch: int) -> tuple[Any, bool, Effort]:
        """Its output for one batch, whether it draws, and what it takes."""
        args, kwargs = map_aggregate(
            self._arguments, lambda leaf: leaf.values[batch] if isinstance(leaf, Known) else leaf
        )
        work = self._target if self._module is None else self._module
        if self._kind == "call_method":
            work, args = getattr(args[0], self._target), args[1:]
        with self._evaluating():
            before = (torch.get_rng_state(), drawn_by_others())
            result, effort, _ = count_work(lambda: work(*args, **kwargs))
            drawn = not torch.equal(before[0], torch.get_rng_state()) or before[1] != drawn_by_others()
        return result, drawn, effort

    def _versions(self) -> dict[str, tuple[int, int]]:
        """Tells whether buffers of the module change."""
        return {} if self._module is None else {n: (id(b), b._version) for n, b in self._module.named_buffers()}

    def _follows_input(self, node: fx.Node) -> bool:
        """Whether a section can read it from its own input as well: the rows, or dtype or device of a signal."""
        if self._target is rows_of:
            return True
        return (
            self._target is getattr and isinstance(self._given[0].values[0], Tensor) and node.args[1] in FOLLOWS_INPUT
        )

    def _reads(self, names: Mapping[int, str]) -> frozenset[str]:
        if self._module is None:
            return frozenset([self._target] if self._kind == "get_attr" else [])
        held = (*self._module.named_parameters(), *self._module.named_buffers())
        return frozenset(names.get(id(tensor), f"{self._target}.{name}") for name, tensor in held)

    def _memory(self, node: fx.Node, given: Sequence[Traits]) -> object:
        if self._kind == "get_attr":
            return self._target
        own = {_place(tensor) for tensor in _tensors(self.values[0])}
        held = zip(given, self._tensors, strict=True)
        return next((each.memory for each, tensors in held if own & {*map(_place, tensors)}), node)


def has_weights(module: nn.Module) -> bool:
    """Whether it has parameters, and not only those of normalisations."""
    holders = [part for part in module.modules() if next(part.parameters(recurse=False), None) is not None]
    return any(not isinstance(part, JOINING) for part in holders)


def drawn_by_others() -> Any:
    """The state of the generators of Python and numpy."""
    numpy: Any = np.random.get_state()
    return random.getstate(), numpy[1].tobytes(), numpy[2:]


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Its parameters, buffers and attributes that are tensors, by all their names."""
    for prefix, part in model.named_modules(remove_duplicate=False):
        for name, value in (*part._parameters.items(), *part._buffers.items(), *vars(part).items()):
            if isinstance(value, Tensor):
                yield f"{prefix}.{name}" if prefix else name, value


def _shape_of_sample(values: tuple[Any, Any]) -> tuple[int, ...] | None:
    if not all(isinstance(value, Tensor) and value.is_floating_point() and value.dim() for value in values):
        return None
    fits = tuple(map(len, values)) == ROWS and values[0].shape[1:] == values[1].shape[1:]
    return tuple(values[0].shape[1:]) if fits else None


def count_operations(effort: Effort) -> int:
    """An effort as one number, by which layers are made equal."""
    return effort.flops + _PER_BYTE * effort.passed_bytes


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _versions(tensors: Sequence[Tensor]) -> list[int]:
    return [tensor._version for tensor in tensors]


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else id(tensor)
