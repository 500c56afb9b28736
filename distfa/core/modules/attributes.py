"""A module's state besides its parameters: counters, caches, averages, its own generators.

A forward pass may read and change any of it, so it is part of the layer's state: whatever has changed since the module
was given is saved in checkpoints and travels with the weights, and a forward pass outside training leaves all of it
untouched.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from torch import Tensor, nn

from distfa.core.modules.frozen import (
    Frozen,
    freeze,
    holds_values,
    is_mutable,
    is_same,
    pack_values,
    portable,
    thaw,
    unpack_values,
)
from distfa.core.modules.restoring import restorer
from distfa.errors import ModelError

M = TypeVar("M", bound=nn.Module)

KEY = "distfa.attributes."
"""Begins the key under which a layer's changed attributes travel with its weights."""

_OF_TORCH = frozenset(vars(nn.Module()))  # what torch keeps on every module: its tables, its hooks, its mode
_SAME = "same"  # of an attribute that is the same object as another, whose name follows


def copy_module(module: M, where: str) -> M:
    """A deep copy; an output that the module has kept from an earlier forward is copied without its graph.

    Args:
        module: The module.
        where: What to call it in messages.

    Raises:
        ModelError: It holds something that cannot be copied, such as a lock or an open file; the message names it.
    """
    memo: dict[int, Any] = {}
    for table in _tables(module):
        _cut_graphs(list(table.values()), memo)
    try:
        return copy.deepcopy(module, memo)
    except Exception as exc:
        for name, value in attributes_of(module).items():
            try:
                copy.deepcopy(value, dict(memo))
            except Exception:
                raise ModelError(
                    f"{where}: attribute {name!r} ({type(value).__name__}) cannot be copied, but a layer is "
                    "trained as a copy in its own process; create it in the forward pass that needs it, or leave "
                    f"it out of copies with __getstate__ ({type(exc).__name__}: {exc})"
                ) from exc
        raise ModelError(f"{where} cannot be copied: {type(exc).__name__}: {exc}") from exc


def attributes_of(module: nn.Module) -> dict[str, Any]:
    """The attributes of a module and of its parts, by name, and the buffers that are in no state_dict."""
    found: dict[str, Any] = {}
    for prefix, part in module.named_modules():
        lasting = set(part._buffers) - set(part._non_persistent_buffers_set)
        for name, value in (*vars(part).items(), *part._buffers.items()):
            if name not in _OF_TORCH and name not in lasting:
                found[f"{prefix}.{name}" if prefix else name] = value
    return found


def tensors_beside_parameters(module: nn.Module) -> Iterator[Tensor]:
    """The tensors among its buffers and attributes, which a forward may change in place, those in collections too."""
    known = frozenset(map(id, [*module.parameters(), *module.modules()]))
    for table in _tables(module):
        yield from tensors_in([value for name, value in table.items() if name not in _OF_TORCH], known)


def tensors_in(values: Iterable[Any], known: frozenset[int], *, depth: int = 4) -> Iterator[Tensor]:
    """The tensors among values, in collections of them, and in objects that hold them.

    Args:
        values: Anything.
        known: ``id`` of tensors and modules to leave out.
        depth: How many levels of objects within objects are looked into.
    """
    for value in values:
        if isinstance(value, Tensor) and id(value) not in known:
            yield value
        elif depth and type(value) in (list, tuple, set, deque):
            yield from tensors_in(value, known, depth=depth - 1)
        elif depth and isinstance(value, dict):
            yield from tensors_in(value.values(), known, depth=depth - 1)
        elif depth and isinstance(value, nn.Module) and id(value) not in known:  # a module hidden in a list
            yield from tensors_in([*value.parameters(), *value.buffers()], known, depth=0)
        elif depth and holds_values(value) and not isinstance(value, nn.Module):
            yield from tensors_in(vars(value).values(), known, depth=depth - 1)


class Memory:
    """All that a module holds, as it is now: parameters, buffers, attributes, parts and modes.

    Args:
        module: The module.
        parameters: Whether its forward may change parameters, as only modules that a user wrote do.
    """

    def __init__(self, module: nn.Module, *, parameters: bool = True) -> None:
        own = frozenset(map(id, module.parameters()))
        known = own | frozenset(map(id, module.modules()))
        self._parts = [(table, dict(table)) for part in module.modules() for table in (part._parameters, part._modules)]
        self._modes = [(part, part.training) for part in module.modules()]
        self._tables = [
            (table, {n: restorer(value, known) for n, value in table.items() if n not in _OF_TORCH})
            for table in _tables(module)
        ]
        self._parameters = [restorer(p) for p in module.parameters()] if parameters else []

    def restore(self) -> None:
        """Let the module hold it again, in the same objects.

        Raises:
            ModelError: It holds an object that cannot be put back, and that has changed.
        """
        for table, values in self._parts:
            _refill(table, values)
        for part, mode in self._modes:
            part.training = mode
        for table, put_back in self._tables:
            values = {name: value for name, value in table.items() if name in _OF_TORCH}
            _refill(table, values | {name: back() for name, back in put_back.items()})
        for back in self._parameters:
            back()


def _refill(table: dict[str, Any], values: Mapping[str, Any]) -> None:
    for name in table.keys() - values.keys():
        del table[name]
    table.update(values)


@contextmanager
def restore_afterwards(module: nn.Module, *, parameters: bool = True) -> Iterator[None]:
    """To be open around a forward outside training: afterwards everything is restored (``Memory``)."""
    before = Memory(module, parameters=parameters)
    try:
        yield
    except BaseException:
        with suppress(ModelError):  # what went wrong first is told
            before.restore()
        raise
    before.restore()


class Attributes:
    """Tells which attributes of a module have changed since they were given, and carries them to a copy of it.

    Args:
        module: The module as it was given.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._given = self._frozen()

    def changed(self) -> dict[str, Frozen]:
        """The attributes that are not as they were given, by name.

        Raises:
            ModelError: One has changed and cannot be kept: it is neither a number, text, a tensor, an array, a
                generator nor a collection of those.
        """
        found: dict[str, Frozen] = {}
        for name, now in self._frozen().items():
            was, follows = self._given.get(name), now[0] == _SAME and now[1] in found
            if was is not None and is_same(now, was) and not follows:
                continue
            try:
                found[name] = portable(now, was, name)
            except TypeError as exc:
                raise ModelError(
                    f"attribute {name!r} changes in the forward pass, and {exc}, which can neither be saved in a "
                    "checkpoint nor sent to another process; make it a buffer, a number, a tensor, a collection "
                    "of those, or a generator of torch, numpy or random"
                ) from exc
        return found

    def state(self, name: str) -> dict[str, Tensor]:
        """All that has changed, as bytes under one key that ends in ``name``; empty if nothing has."""
        found = self.changed()
        return {KEY + name: pack_values(found)} if found else {}

    def restore(self) -> None:
        """Set all attributes to what they were when they were given; those that came later go."""
        _set(self._module, self._given)
        for name in attributes_of(self._module).keys() - self._given.keys():
            delattr(*_place(self._module, name))

    def _frozen(self) -> dict[str, Frozen]:
        """All attributes; of several that are one object, the first has its contents."""
        lasting = [b for part in self._module.modules() for n, b in part._buffers.items() if b is not None
                   and n not in part._non_persistent_buffers_set]  # fmt: skip
        known = frozenset(map(id, [*self._module.parameters(), *self._module.modules(), *lasting]))
        attributes = attributes_of(self._module)
        first: dict[int, str] = {}
        for name, value in attributes.items():
            if is_mutable(value) and id(value) not in known:
                first.setdefault(id(value), name)
        return {
            name: freeze(value, known) if (one := first.get(id(value), name)) == name else (_SAME, one)
            for name, value in attributes.items()
        }


def require_own_state(layers: Mapping[int, nn.Module], changed: Mapping[int, frozenset[str]]) -> None:
    """Refuse an object that two layers hold and that a forward changes: each layer would change a copy of its own.

    Args:
        layers: The modules of every layer, by its number.
        changed: Names of the attributes that change in a layer's forward.

    Raises:
        ModelError: Names the attribute and both layers.
    """
    for layer, names in changed.items():
        mine = attributes_of(layers[layer])
        for name in sorted(names & mine.keys()):
            owner, _ = _place(layers[layer], name)
            for other in layers.keys() - {layer}:
                theirs = [*layers[other].modules(), *filter(is_mutable, attributes_of(layers[other]).values())]
                if any(one is owner or one is mine[name] for one in theirs):
                    raise ModelError(
                        f"attribute {name!r} of layer {layer} changes in its forward pass but also belongs to "
                        f"layer {other}: each layer would change its own copy; put both into one module, which "
                        "makes one layer"
                    )


def load_attributes(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Set what ``Attributes.state`` has kept, in a copy of that module or in the model that it is a part of."""
    for key, content in state.items():
        if key.startswith(KEY):
            _set(module, unpack_values(content))


def _set(module: nn.Module, values: Mapping[str, Frozen]) -> None:
    for name, frozen in sorted(values.items(), key=lambda item: item[1][0] == _SAME):  # after what they are the same as
        table, attribute = _table(module, name)
        if frozen[0] == _SAME:
            other, first = _table(module, frozen[1])
            table[attribute] = other[first]
        else:
            table[attribute] = thaw(frozen, table.get(attribute))


def _table(module: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    """The dictionary in which a module keeps an attribute, and the attribute's name there."""
    part, attribute = _place(module, name)
    return part._buffers if attribute in part._buffers else vars(part), attribute


def _place(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The part that an attribute belongs to, and its name there, which may have dots, as no part's name may."""
    parts = dict(module.named_modules())
    prefix = max((p for p in parts if p and name.startswith(f"{p}.")), key=len, default="")
    return parts[prefix], name[len(prefix) + bool(prefix) :]


def load_model_state(model: nn.Module, state: Mapping[str, Tensor], *, strict: bool = True) -> None:
    """``load_state_dict``, and the attributes that have changed in training.

    Raises:
        RuntimeError: The state is another model's, as ``load_state_dict`` says.
    """
    model.load_state_dict({key: value for key, value in state.items() if not key.startswith(KEY)}, strict=strict)
    load_attributes(model, {key: value for key, value in state.items() if key.startswith(KEY)})


def _tables(module: nn.Module) -> Iterator[dict[str, Any]]:
    """The dictionaries in which a module and its parts keep their attributes and their buffers."""
    for part in module.modules():
        yield vars(part)
        yield part._buffers


def _cut_graphs(value: Any, memo: dict[int, Any], depth: int = 10) -> None:
    """Let a deep copy take a tensor that has a graph without that graph: ``deepcopy`` itself refuses it."""
    if isinstance(value, Tensor) and not value.is_leaf:
        memo[id(value)] = value.detach().clone()
    elif depth and type(value) in (list, tuple, set, deque):
        for item in value:
            _cut_graphs(item, memo, depth - 1)
    elif depth and isinstance(value, dict):
        for item in value.values():
            _cut_graphs(item, memo, depth - 1)
