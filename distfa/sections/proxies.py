"""The values that a forward sees as it is traced: a proxy knows what it is for two small batches.

    x.shape   ->   (rows, 64, 8, 8)    a size that both batches have is a number; what follows the rows is read again

So loops over sizes, shape checks and ``torch.ones(T, T)`` do what they do in the model itself. Anything that would
depend on numbers in the data is refused, since the trace would freeze one answer.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx

from distfa.core.modules.section import rows_of

ROWS = (2, 3)
"""Samples of the two batches; batch normalisation needs more than one."""

FOLLOWS_INPUT = ("dtype", "device")
"""Attributes of a signal that a section can read from its own input as well."""


class Untraceable(Exception):
    """A forward does what a trace would freeze; the message says what.

    Args:
        what: What it does.
        forward: The forward, if what it does shows only at its end.
    """

    def __init__(self, what: str, forward: Any = None) -> None:
        super().__init__(what)
        code = getattr(forward, "__code__", None)
        self.where = f"{code.co_filename}:{code.co_firstlineno} " if code else ""


class Known(fx.Proxy):
    """A value of the trace; ``values`` is what it is for each of the two batches."""

    def __init__(self, node: fx.Node, tracer: Any) -> None:
        super().__init__(node, tracer)
        self.tracer: Any
        self.values: tuple[Any, Any] = (None, None)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        first = self.values[0]
        if isinstance(first, Tensor):
            if name in _SIZES:
                return _SIZES[name](self)
            if name == "dtype" and not first.is_floating_point():
                return first.dtype
        found = getattr(first, name)
        if callable(found):
            return lambda *args, **kwargs: self._make("call_method", name, (self, *args), kwargs)
        return self._make("call_function", getattr, (self, name), {})

    def __bool__(self) -> bool:
        if self.node.target in (operator.eq, operator.ne) and (
            self._traits.is_size or all(map(_is_dtype, self.node.args))
        ):
            return bool(self._agreed("compares the number of rows with another number"))
        return bool(self._constant("branches on data"))

    def __int__(self) -> int:
        return int(self._constant("makes a number of data"))

    def __float__(self) -> float:
        return float(self._constant("makes a number of data"))

    def __index__(self) -> int:
        return int(operator.index(self._constant("makes a number of data")))

    def __len__(self) -> int:
        return int(self._agreed("takes len() of the rows (x.shape[0] is possible)", len))

    def __iter__(self) -> Iterator[Any]:
        items = range(self._agreed("goes through the rows one by one", len))
        return iter([self._make("call_function", operator.getitem, (self, item), {}) for item in items])

    def __contains__(self, item: object) -> bool:
        raise Untraceable("looks for a value among data")

    def __setitem__(self, index: Any, value: Any) -> None:
        self._make("call_function", operator.setitem, (self, index, value), {})

    @property
    def _traits(self) -> Any:
        return self.node.meta["traits"]

    def _sizes(self) -> tuple[Any, ...]:
        axes = [self._size(axis) for axis in range(self.values[0].dim())]
        return torch.Size(axes) if all(isinstance(size, int) for size in axes) else tuple(axes)

    def _size(self, axis: int) -> Any:
        one, other = (value.shape[axis] for value in self.values)
        if one == other:
            return int(one)
        if one * ROWS[1] == other * ROWS[0] and one % ROWS[0] == 0:
            rows = self._make("call_function", rows_of, (self.tracer.input,), {})
            return rows if one == ROWS[0] else rows * (one // ROWS[0])
        return self._make("call_method", "size", (self, axis), {})

    def _numel(self) -> Any:
        found = 1
        for size in self._sizes():
            found = size * found
        return found

    def _constant(self, what: str) -> Any:
        if not self._traits.constant:
            raise Untraceable(what)
        return self.values[0]

    def _agreed(self, what: str, of: Any = lambda value: value) -> Any:
        one, other = map(of, self.values)
        if one != other:
            raise Untraceable(what)
        return one

    def _make(self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.tracer.create_proxy(kind, target, args, kwargs)


def _is_dtype(argument: Any) -> bool:
    """Whether it is the dtype of a signal or of a tensor of the model: all of those follow the run's."""
    return isinstance(argument, fx.Node) and argument.target is getattr and argument.args[1] == "dtype"


def _in_place(operation: Any) -> Any:
    return lambda self, other: self._make("call_function", operation, (self, other), {})


for _name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul", "iand", "ior", "ixor"):
    setattr(Known, f"__{_name}__", _in_place(getattr(operator, _name)))  # torch.fx makes ``x += y`` an ``x + y``

_SIZES: dict[str, Any] = {
    "shape": Known._sizes,
    "ndim": lambda x: x.values[0].dim(),
    "ndimension": lambda x: lambda: x.values[0].dim(),
    "dim": lambda x: lambda: x.values[0].dim(),
    "size": lambda x: lambda dim=None: x._sizes() if dim is None else x._size(dim),
    "numel": lambda x: x._numel,
    "is_floating_point": lambda x: x.values[0].is_floating_point,
    "is_complex": lambda x: x.values[0].is_complex,
}
