"""Random numbers that belong to a sample: whatever generator it draws from, it draws the same whenever it is made.

That is why every engine, every probe and a resumed run see the same samples, and why making one leaves the random
states of the process, and of the user's own generators, as they were.
"""

from __future__ import annotations

import functools
import hashlib
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import FunctionType, MethodType
from typing import Any

import numpy as np

_RANDOM = threading.Lock()  # random states belong to the process: layers that are threads take turns
_MOST_THINGS, _MOST_ITEMS = 10_000, 1_000  # how far generators are looked for


@contextmanager
def drawing_from(seed: int, epoch: int, index: object, own: Sequence[Any] = ()) -> Iterator[None]:
    """Let random numbers come from a stream that belongs to this sample; afterwards the random states are restored.

    Args:
        seed: The run's.
        epoch: Counted from 0; -1 outside training.
        index: Which sample it is.
        own: Generators of the user's own that are drawn from too, as ``generators_in`` finds them.
    """
    import torch  # here, so that listing the names of data sets does not load torch

    word = hashlib.blake2b(f"{seed},{epoch},{index}".encode(), digest_size=8).digest()
    drawn = int.from_bytes(word, "little") >> 1
    with _RANDOM:
        before = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
        try:
            random.seed(drawn)
            np.random.seed(drawn % 2**32)
            if torch.accelerator.is_available():
                torch.manual_seed(drawn)
            else:  # the same, without the quarter of a millisecond that torch.manual_seed spends on what is not there
                torch.default_generator.manual_seed(drawn)
            with ExitStack() as stack:
                for generator in own:
                    stack.enter_context(_seed(generator, drawn))
                yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
            torch.random.set_rng_state(before[2])


def generators_in(thing: Any) -> list[Any]:
    """The generators of numpy, torch and Python that an object holds, in its attributes, items, closures and names.

    They are looked for in what is reachable within reason: not in arrays, nor in lists of more than a thousand items.
    """
    found: list[Any] = []
    waiting, seen = [thing], set[int]()
    while waiting and len(seen) < _MOST_THINGS:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if _is_generator(each):
            found.append(each)
        else:
            waiting += _list_references(each)
    return found


def _is_generator(thing: Any) -> bool:
    import torch

    kinds = (np.random.Generator, np.random.RandomState, random.Random, torch.Generator)
    return isinstance(thing, kinds) and not isinstance(thing, random.SystemRandom)


def _list_references(thing: Any) -> list[Any]:
    """The objects that an object refers to."""
    import torch

    if isinstance(thing, str | bytes | int | float | complex | np.ndarray | torch.Tensor | type | None):
        return []
    if isinstance(thing, Mapping | list | tuple | set | frozenset):
        items = thing.values() if isinstance(thing, Mapping) else thing
        return list(items) if len(thing) <= _MOST_ITEMS else []
    if isinstance(thing, MethodType):
        return [thing.__self__, thing.__func__]
    if isinstance(thing, functools.partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    if isinstance(thing, FunctionType):
        return _list_function_references(thing)
    calls = [getattr(type(thing), name, None) for name in ("__getitem__", "__call__", "forward")]
    slots = [getattr(thing, name, None) for kind in type(thing).__mro__ for name in _slots(kind)]
    return [*getattr(thing, "__dict__", {}).values(), *slots, *(f for f in calls if isinstance(f, FunctionType))]


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _list_function_references(function: FunctionType) -> list[Any]:
    """The objects that a function closes over, its defaults, and generators of its module that it names."""
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:  # not set yet
            continue
    named = (function.__globals__.get(name) for name in function.__code__.co_names)
    return [*cells, *(function.__defaults__ or ()), *(thing for thing in named if _is_generator(thing))]


@contextmanager
def _seed(generator: Any, drawn: int) -> Iterator[None]:
    """Seed a generator within the block, and restore its state afterwards."""
    import torch

    if isinstance(generator, np.random.Generator):
        bits: Any = generator.bit_generator
        before, bits.state = bits.state, type(bits)(drawn).state
        try:
            yield
        finally:
            bits.state = before
        return
    reading, writing = ("getstate", "setstate") if isinstance(generator, random.Random) else ("get_state", "set_state")
    before = getattr(generator, reading)()
    if isinstance(generator, torch.Generator):
        generator.manual_seed(drawn)
    else:
        generator.seed(drawn % 2**32)
    try:
        yield
    finally:
        getattr(generator, writing)(before)
