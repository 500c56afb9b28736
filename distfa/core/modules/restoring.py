"""Puts a value back to what it was: the same objects, with the contents that they had.

    put_back = restorer(value)    ...a forward changes whatever it likes...    value = put_back()

Unlike ``frozen``, which carries values to another process, this never makes a new object: others may hold the old one.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distfa.core.modules.frozen import DEPTH, bits_of, fingerprint, holds_values, stream_of
from distfa.errors import ModelError

PutBack = Callable[[], Any]


def restorer(value: Any, known: frozenset[int] = frozenset(), *, depth: int = DEPTH) -> PutBack:
    """A function that puts a value back, and returns it.

    Args:
        value: Anything.
        known: ``id`` of objects that are put back elsewhere.
        depth: How many levels of objects within objects are looked into.

    Raises:
        ModelError: By what is returned: the value is an object that cannot be put back, and it has changed.
    """
    if id(value) in known or depth == 0:
        return lambda: value
    known |= {id(value)}
    if isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta and not value.is_quantized:
        return _tensor_restorer(value)
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return _array_restorer(value)
    if isinstance(value, torch.Generator):
        drawn = value.get_state()
        return lambda: value.set_state(drawn)
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        state = value.getstate()
        return lambda: value.setstate(state) or value  # type: ignore[func-returns-value]
    if isinstance(value, np.random.Generator | np.random.RandomState):
        return _stream_restorer(value)
    if isinstance(value, dict):
        return _table_restorer(value, value, known, depth)
    if isinstance(value, list | tuple | set | frozenset | deque):
        return _collection_restorer(value, known, depth)
    if holds_values(value):
        return _table_restorer(vars(value), value, known, depth)
    return _object_restorer(value)


def _tensor_restorer(value: Tensor) -> PutBack:
    was = value.detach().clone()

    def put_back() -> Tensor:
        if value.shape != was.shape or value.dtype != was.dtype:
            value.data = was.clone()
        elif not torch.equal(bits_of(value.detach()), bits_of(was)):
            value.data.copy_(was)
        return value

    return put_back


def _array_restorer(value: Any) -> PutBack:
    was = value.copy()

    def put_back() -> Any:
        if value.flags.writeable and value.tobytes() != was.tobytes():
            value[...] = was
        return value

    return put_back


def _stream_restorer(value: Any) -> PutBack:
    state = stream_of(value).state

    def put_back() -> Any:
        stream_of(value).state = state
        return value

    return put_back


def _table_restorer(table: dict[Any, Any], owner: Any, known: frozenset[int], depth: int) -> PutBack:
    items = {key: restorer(item, known, depth=depth - 1) for key, item in table.items()}

    def put_back() -> Any:
        found = {key: item() for key, item in items.items()}
        if list(table) != list(found):
            table.clear()
        table.update(found)
        return owner

    return put_back


def _collection_restorer(value: Any, known: frozenset[int], depth: int) -> PutBack:
    items = [restorer(item, known, depth=depth - 1) for item in value]

    def put_back() -> Any:
        found = [item() for item in items]
        if not isinstance(value, tuple | frozenset) and [*map(id, value)] != [*map(id, found)]:
            value.clear()
            (value.update if isinstance(value, set) else value.extend)(found)
        return value

    return put_back


def _object_restorer(value: Any) -> PutBack:
    was = fingerprint(value)

    def put_back() -> Any:
        if was and fingerprint(value) != was:
            raise ModelError(
                f"a {type(value).__name__} that it holds changed in a forward pass outside training and cannot be "
                "restored; use numbers, tensors, collections, generators or plain objects of your own"
            )
        return value

    return put_back
