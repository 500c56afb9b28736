"""Python values written as nested tuples of plain values and tensors: to compare them, to keep them, to send them.

    [3, tensor]   ->   ("list", (("value", 3), ("tensor", tensor)))      the kind of the value, then its contents

Nothing is unpickled, so what a file holds is never run. An object that cannot be written so (a function, a file) is a
*reference*: it may be there, but it may not change.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import random
import sys
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping
from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

Frozen = tuple[Any, ...]

_DICTS: dict[str, Any] = {"builtins.dict": dict, "collections.OrderedDict": OrderedDict, "collections.Counter": Counter}
_PLAIN = (type(None), bool, int, float, str)
_SEQUENCES: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque}
_OF_TORCH = (torch.dtype, torch.device, torch.Size)
DEPTH = 10  # how deep objects within objects are looked into
_LIBRARIES = sys.stdlib_module_names | {"torch", "numpy", "distfa"}


class Reference:
    """A value that is kept as it is."""

    def __init__(self, value: object) -> None:
        self.value = value


def freeze(value: Any, known: frozenset[int] = frozenset(), *, depth: int = DEPTH) -> Frozen:
    """A value as nested tuples, independent of later changes.

    Args:
        value: Anything.
        known: ``id`` of objects that are kept elsewhere: they become references.
        depth: How many levels may follow; what lies deeper becomes a reference.
    """
    kind = type(value)
    if kind in _PLAIN:
        return ("value", value)
    if id(value) in known or depth == 0:
        return ("reference", Reference(value), "")
    if isinstance(value, Tensor):
        plain = value.layout is torch.strided and not value.is_meta and not value.is_quantized
        return ("tensor", value.detach().clone()) if plain else ("reference", Reference(value), "")
    if isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
        content = torch.tensor(list(value.tobytes()), dtype=torch.uint8) if not value.size else _bytes_in(value)
        return ("array", isinstance(value, np.ndarray), value.dtype.str, tuple(value.shape), content)
    if kind in (bytes, complex):
        return (kind.__name__, value.hex() if isinstance(value, bytes) else repr(value))
    if kind in _OF_TORCH:
        return (kind.__name__, tuple(value) if kind is torch.Size else str(value).removeprefix("torch."))
    if kind is torch.Generator:
        return ("torch", value.get_state())
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        return ("python", freeze(value.getstate(), known))
    if isinstance(value, np.random.Generator | np.random.RandomState):
        return ("numpy", freeze(stream_of(value).state, known))
    inner = known | {id(value)}
    if _SEQUENCES.get(kind.__name__) is kind:
        items = sorted(value, key=repr) if kind in (set, frozenset) else value
        most = value.maxlen if isinstance(value, deque) else None
        return (kind.__name__, most, tuple(freeze(item, inner, depth=depth - 1) for item in items))
    if isinstance(value, Enum):
        return ("enum", _path(kind), value.name)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return ("namedtuple", _path(kind), tuple(freeze(item, inner, depth=depth - 1) for item in value))
    if isinstance(value, dict):
        pairs = ((freeze(k, inner), freeze(v, inner, depth=depth - 1)) for k, v in value.items())
        return ("dict", _path(kind), tuple(pairs))
    if holds_values(value):
        pairs = ((("value", k), freeze(v, inner, depth=depth - 1)) for k, v in vars(value).items())
        return ("object", _path(kind), tuple(pairs))
    return ("reference", Reference(value), fingerprint(value))


def is_same(a: Any, b: Any) -> bool:
    """Whether two frozen values are equal, to the last bit."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(is_same, a, b))
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        alike = a.dtype == b.dtype and a.shape == b.shape and a.device == b.device
        return alike and torch.equal(bits_of(a), bits_of(b))
    if isinstance(a, Reference) and isinstance(b, Reference):
        return a.value is b.value or (type(a.value) is type(b.value) and _are_equal(a.value, b.value))
    return type(a) is type(b) and bool(a == b or (a != a and b != b))


def thaw(frozen: Frozen, into: Any = None) -> Any:
    """The value that was frozen.

    Args:
        frozen: As ``freeze`` gives it.
        into: The object that had the value; it is filled if it can be, so that others who hold it see the value too.
    """
    kind, content = frozen[0], frozen[-1]
    if kind == "value":
        return content
    if kind == "reference":
        return frozen[1].value
    if kind == "enum":
        return type(into)[content]
    if kind == "namedtuple":
        return type(into)(*(thaw(item) for item in content))
    if kind == "given":
        return into
    if kind == "tensor":
        return _thaw_tensor(content, into)
    if kind == "array":
        return _thaw_array(frozen, into)
    if kind in ("bytes", "complex"):
        return bytes.fromhex(content) if kind == "bytes" else complex(content)
    if kind in ("dtype", "device", "Size"):
        return getattr(torch, content) if kind == "dtype" else getattr(torch, kind)(content)
    if kind in ("torch", "python", "numpy"):
        return _thaw_generator(kind, content, into)
    if kind in ("dict", "object"):
        return _thaw_named(frozen, into)
    return _thaw_sequence(frozen, into)


def portable(now: Frozen, was: Frozen | None, name: str) -> Frozen:
    """The frozen value without its references: the other end has those objects itself, as they were given.

    Args:
        now: The value.
        was: What it was when it was given; None if it was not there.
        name: What to call it in messages.

    Raises:
        TypeError: It holds an object that the other end cannot make; the message names it.
    """
    kind = now[0]
    if kind == "reference":
        if was is None or not is_same(now, was):
            raise TypeError(f"{name!r} is a {type(now[1].value).__name__}")
        return ("given", None)
    if kind in ("enum", "namedtuple", "object", "dict") and now[1] not in _DICTS and (was or ("",))[:2] != now[:2]:
        raise TypeError(f"{name!r} has become a {now[1].rpartition('.')[2]}")
    old = was[-1] if was is not None and was[0] == kind and isinstance(was[-1], tuple) else ()
    if kind in _SEQUENCES or kind == "namedtuple":
        pairs = enumerate(zip(now[2], [*old, *[None] * len(now[2])], strict=False))
        return (kind, now[1], tuple(portable(item, before, f"{name}[{i}]") for i, (item, before) in pairs))
    if kind in ("dict", "object"):
        were = {repr(key): item for key, item in old}
        items = ((portable(k, None, f"a key of {name}"), v, were.get(repr(k)), f"{name}.{k[-1]}") for k, v in now[2])
        return (kind, now[1], tuple((k, portable(v, before, inside)) for k, v, before, inside in items))
    return now


def pack_values(values: Mapping[str, Frozen]) -> Tensor:
    """Frozen values without references as bytes, (n,) uint8, in the format of safetensors; equal for equal values."""
    tensors: dict[str, Tensor] = {}

    def written(part: Any) -> Any:
        if isinstance(part, Tensor):
            tensors[str(len(tensors))] = bits_of(part.cpu()).clone()
            return {"tensor": len(tensors) - 1, "dtype": str(part.dtype)[6:], "shape": list(part.shape)}
        return [written(item) for item in part] if isinstance(part, tuple) else part

    text = json.dumps({name: written(value) for name, value in sorted(values.items())})
    return torch.frombuffer(bytearray(safetensors.torch.save(tensors, metadata={"values": text})), dtype=torch.uint8)


def unpack_values(content: Tensor) -> dict[str, Frozen]:
    """Undo ``pack_values``."""
    data = content.cpu().numpy().tobytes()
    tensors = safetensors.torch.load(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])

    def read(part: Any) -> Any:
        if isinstance(part, dict):
            numbers = tensors[str(part["tensor"])].clone().view(getattr(torch, part["dtype"]))
            return numbers.view(part["shape"])
        return tuple(read(item) for item in part) if isinstance(part, list) else part

    return {name: read(value) for name, value in json.loads(header["__metadata__"]["values"]).items()}


# -- parts ------------------------------------------------------------------------------------------


def _thaw_tensor(content: Tensor, into: Any) -> Tensor:
    """A new tensor: the old one may be a signal that is still in use."""
    return content.to(into.device, copy=True) if isinstance(into, Tensor) else content.clone()


def _thaw_array(frozen: Frozen, into: Any) -> Any:
    _, is_array, dtype, shape, content = frozen
    made = np.frombuffer(bytearray(content.numpy().tobytes()), dtype=np.dtype(dtype)).reshape(shape)
    if not is_array:
        return made[()]
    if isinstance(into, np.ndarray) and into.shape == made.shape and into.dtype == made.dtype and into.flags.writeable:
        into[...] = made
        return into
    return made


def _thaw_generator(kind: str, content: Any, into: Any) -> Any:
    if kind == "torch":
        into = into or torch.Generator()
        return into.set_state(content.cpu())
    state = thaw(content)
    if kind == "python":
        into = into or random.Random()
        into.setstate(state)
        return into
    into = into or np.random.Generator(getattr(np.random, state["bit_generator"])())
    stream_of(into).state = state
    return into


def _thaw_named(frozen: Frozen, into: Any) -> Any:
    """A dictionary, or the attributes of an object, which must be there."""
    kind, path, content = frozen
    if kind == "dict" and (not isinstance(into, dict) or _path(type(into)) != path):
        into = _DICTS[path]()
    table = into if kind == "dict" else vars(into)
    filled = {key: thaw(item, table.get(key)) for key, item in ((thaw(k), item) for k, item in content)}
    table.clear()
    table.update(filled)
    return into


def _thaw_sequence(frozen: Frozen, into: Any) -> Any:
    kind, most, content = frozen
    before = list(into) if isinstance(into, list | tuple | deque) else []
    items = [thaw(item, before[i] if i < len(before) else None) for i, item in enumerate(content)]
    if kind == "deque" and (type(into) is not deque or into.maxlen != most):
        return deque(items, most)
    if type(into) is not _SEQUENCES[kind] or kind in ("tuple", "frozenset"):
        return _SEQUENCES[kind](items)
    into.clear()
    (into.update if kind == "set" else into.extend)(items)
    return into


def holds_values(value: Any) -> bool:
    """Whether it is an object of the user's that holds values; what a library made is not looked into."""
    if isinstance(value, nn.Module | SimpleNamespace):
        return True
    own = type(value).__module__.partition(".")[0] not in _LIBRARIES
    return own and hasattr(value, "__dict__") and not isinstance(value, type)


def is_mutable(value: Any) -> bool:
    """Whether it may change without becoming another object."""
    return not isinstance(value, (*_PLAIN, bytes, complex, tuple, frozenset, Enum)) and not callable(value)


def stream_of(generator: Any) -> Any:
    """The object that has the state of a generator of numpy."""
    return generator.bit_generator if isinstance(generator, np.random.Generator) else generator._bit_generator


def fingerprint(value: Any) -> str:
    """Tells two states of an object that is kept as a reference apart; empty for what has none that could be told."""
    closed = hasattr(value, "__dict__") and type(value).__module__.partition(".")[0] not in sys.stdlib_module_names
    if callable(value) or (closed and not isinstance(value, list | dict | set | bytearray | np.ndarray)):
        return ""
    try:
        return hashlib.blake2b(pickle.dumps(value), digest_size=16).hexdigest()
    except Exception:
        return ""  # an object that cannot be written down, such as a lock


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _bytes_in(array: Any) -> Tensor:
    return torch.frombuffer(bytearray(array.tobytes()), dtype=torch.uint8)


def bits_of(tensor: Tensor) -> Tensor:
    """Its numbers as bytes, (n,) uint8: equal only if the numbers are equal to the last bit."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _are_equal(a: object, b: object) -> bool:
    try:
        return bool(a == b)
    except Exception:
        return False  # an object that cannot be compared counts as another one
