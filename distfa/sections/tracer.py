"""Traces a model's forward with torch.fx; two small batches go along.

Modules that are not entered are called as they are: control flow, draws and state inside them stay alive. In a module
that is entered, what a trace would freeze is refused: branches on data, attributes that it sets, draws that are not
torch's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate
from torch.overrides import TorchFunctionMode, is_tensor_method_or_property
from torch.utils._pytree import tree_leaves

from distfa.core.base.seeding import Seeding
from distfa.core.modules.attributes import copy_module
from distfa.core.modules.frozen import freeze, is_same
from distfa.sections.operations import Key, Operation, Traits, drawn_by_others, named_tensors, traits
from distfa.sections.proxies import Known, Untraceable

Enter = Callable[[str, nn.Module], bool]
"""Whether the module of this name is entered."""

_FACTORIES = (
    "arange",
    "empty",
    "eye",
    "full",
    "linspace",
    "ones",
    "rand",
    "randint",
    "randn",
    "randperm",
    "tensor",
    "zeros",
)
_OF_TORCH = frozenset(vars(nn.Module()))


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A traced forward.

    Attributes:
        nodes: Its operations in order; the first is the input, the last the output.
        model: The copy of the model that was traced.
        changed: Names of the buffers that it changes.
        refused: Names of the modules that could not be entered, and why.
    """

    nodes: tuple[fx.Node, ...]
    model: nn.Module
    changed: frozenset[str]
    refused: Mapping[str, Exception]


def trace(model: nn.Module, batches: Sequence[Tensor], enter: Enter, *, must: bool, training: bool = True) -> Trace:
    """Trace a copy of a model.

    Args:
        model: The model.
        batches: The two batches.
        enter: Which modules are entered.
        must: Whether each of them must be; if not, one that cannot be entered is called as it is.
        training: Whether the modes are the model's own; if not, all is in evaluation.

    Raises:
        Exception: What the forward or its trace raised.
    """
    copied = copy_module(model, "the model")
    tracer = _Tracer(copied if training else copied.eval(), batches, enter, must=must)
    with tracer.watching(), torch.no_grad():
        graph = tracer.trace(copied)
    return Trace(nodes=tuple(graph.nodes), model=copied, changed=frozenset(tracer.changed), refused=tracer.refused)


@dataclass(kw_only=True)
class _Call:
    """A forward that is being traced, and how many operations of each name it has had so far."""

    key: Key = ()
    path: str = ""
    seen: Counter[str] = field(default_factory=Counter)


class _Tracer(fx.Tracer):
    """Traces one forward; every value it makes is a ``Known``."""

    def __init__(self, model: nn.Module, batches: Sequence[Tensor], enter: Enter, *, must: bool) -> None:
        super().__init__()
        self._batches, self._enter, self._must = batches, enter, must
        self._names: dict[int, str] = {}
        for name, tensor in named_tensors(model):
            self._names.setdefault(id(tensor), name)
        self._seeding, self._calls = Seeding(model), [_Call()]
        self.is_evaluating = False
        self.input: Known
        self.changed: set[str] = set()
        self.refused: dict[str, Exception] = {}

    @property
    def _last_node(self) -> fx.Node:
        last: fx.Node = next(iter(reversed(self.graph.nodes)))  # torch 2.9's list of nodes is no iterator
        return last

    # -- what torch.fx asks -------------------------------------------------------------------------

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        node = self.create_node("placeholder", "x", (), {})
        self.input = self.proxy(node)
        self.input.values = (self._batches[0], self._batches[1])
        shape = tuple(self._batches[0].shape[1:])
        node.meta["traits"] = Traits(key=("",), path="", shape=shape, signal=True, memory=node)
        return lambda model, x: self._forward(model, root_fn, (model, x), {}), [self.root, self.input]

    def proxy(self, node: fx.Node) -> Known:
        return Known(node, self)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self.is_evaluating else self._known(attr_val)

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.is_evaluating:
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        if not self._enter(path, m):
            return self.create_proxy("call_module", path, args, kwargs)
        if self._must:
            return self._go_into(m, path, forward, args, kwargs)
        last, depth, seen = self._last_node, len(self._calls), Counter(self._calls[-1].seen)
        try:
            return self._go_into(m, path, forward, args, kwargs)
        except Exception as exc:
            self.refused.setdefault(path, exc)
        del self._calls[depth:]
        self._calls[-1].seen = seen
        while (node := self._last_node) is not last:
            self.graph.erase_node(node)
        return self.create_proxy("call_module", path, args, kwargs)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> Any:
        arguments = map_aggregate((args, kwargs), self._known)
        call = self._calls[-1]
        key = (*call.key, self._label(target if isinstance(target, str) else target.__name__))
        path = target if kind == "call_module" else call.path
        with self.aside():
            operation = Operation(kind, target, arguments, self.root, self.evaluating)
            proxy: Any = super().create_proxy(kind, target, *arguments)
            found = operation.traits(proxy.node, key, path, self._names)
        proxy.values, proxy.node.meta["traits"] = operation.values, found
        self.changed |= {f"{target}.{name}" for name in operation.changed}
        if found.signal and found.changes:
            self._make_signals(found.changes)
        return proxy

    # -- parts --------------------------------------------------------------------------------------

    @contextmanager
    def watching(self) -> Iterator[None]:
        """To be open around the trace: refuses what it would not see, and sees functions that get no signal."""

        def refusing(own: Any, what: str) -> Any:
            def refused(*args: Any, **kwargs: Any) -> Any:
                if self._calls and not self.is_evaluating:
                    raise Untraceable(what.format(*args[1:2]))
                return own(*args, **kwargs)

            return refused

        def recording(own: Any) -> Any:
            def recorded(*args: Any, **kwargs: Any) -> Any:
                return (
                    self.create_proxy("call_function", own, args, kwargs)
                    if _given(args, kwargs)
                    else own(*args, **kwargs)
                )

            return recorded

        with ExitStack() as stack:
            for name in _FACTORIES:  # torch takes no proxies for sizes
                stack.enter_context(_replacing(torch, name, recording))
            stack.enter_context(_replacing(nn.Module, "__setattr__", lambda own: refusing(own, "sets self.{}")))
            stack.enter_context(
                _replacing(np.random, "default_rng", lambda own: refusing(own, "makes a generator of numpy"))
            )
            stack.enter_context(_Functions(self))
            yield

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """To be open while batches go through an operation: nothing of that is traced."""
        with self.aside(), self._seeding.drawing_from(0):
            yield

    @contextmanager
    def aside(self) -> Iterator[None]:
        """To be open around what is no part of the forward."""
        before, self.is_evaluating = self.is_evaluating, True
        try:
            yield
        finally:
            self.is_evaluating = before

    def _go_into(self, module: nn.Module, path: str, forward: Any, args: Any, kwargs: Any) -> Any:
        self._calls.append(_Call(key=(*self._calls[-1].key, self._label(path)), path=path))
        found = self._forward(module, forward, args, kwargs)
        self._calls.pop()
        return found

    def _forward(self, module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """The forward of a module that is entered.

        Raises:
            Untraceable: It changes what the module holds, or draws from generators that the trace does not see.
        """
        with self.aside():
            before = _attributes(module)
        drawn = drawn_by_others()
        found = forward(*args, **kwargs)
        if drawn != drawn_by_others():
            raise Untraceable("draws from the generator of Python or of numpy, not of torch", type(module).forward)
        with self.aside():
            after = _attributes(module)
            if name := next((n for n in after if n not in before or not is_same(after[n], before[n])), None):
                raise Untraceable(f"changes self.{name}", type(module).forward)
        return found

    def _known(self, given: Any) -> Any:
        """A node that reads a tensor of the model; anything else as it is.

        Raises:
            Untraceable: The model does not hold the tensor.
        """
        if not isinstance(given, Tensor):
            return given
        if id(given) not in self._names:
            raise Untraceable(f"reads a tensor of shape {tuple(given.shape)} that the model holds under no name")
        return self.create_proxy("get_attr", self._names[id(given)], (), {})

    def _make_signals(self, memory: Collection[object]) -> None:
        """Constants in which a signal has been written exist once, like it, and so does what was made from them."""
        waiting = [node for node in self.graph.nodes if traits(node).memory in memory]
        while waiting:
            node = waiting.pop()
            if not traits(node).signal and node.op != "get_attr":
                node.meta["traits"] = replace(traits(node), signal=True, constant=False, weighted=False)
                waiting += node.users

    def _label(self, name: str) -> str:
        seen = self._calls[-1].seen
        seen[name] += 1
        return f"{name}#{seen[name]}"


class _Functions(TorchFunctionMode):
    """Makes steps of functions that are given no signal: of those that make constants, and those that draw."""

    def __init__(self, tracer: _Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call one function, or make a step of it."""
        kwargs, tracer = kwargs or {}, self._tracer
        if tracer.is_evaluating or _given(args, kwargs):
            return func(*args, **kwargs)
        with tracer.evaluating():
            drawn = torch.get_rng_state()
            found = func(*args, **kwargs)
            drawn_by_it = not torch.equal(drawn, torch.get_rng_state())
        if not drawn_by_it and not any(isinstance(leaf, Tensor) for leaf in tree_leaves(found)):
            return found
        if func.__name__ == "__get__":  # a property, such as x.T
            return tracer.create_proxy("call_function", getattr, (args[0], func.__self__.__name__), {})
        kind = "call_method" if is_tensor_method_or_property(func) else "call_function"
        return tracer.create_proxy(kind, func.__name__ if kind == "call_method" else func, args, kwargs)


def _given(args: Any, kwargs: Any) -> bool:
    """Whether there are values of the trace among the arguments."""
    return any(isinstance(leaf, Known) for leaf in tree_leaves((args, kwargs)))


@contextmanager
def _replacing(owner: Any, name: str, by: Callable[[Any], Any]) -> Iterator[None]:
    own = getattr(owner, name)
    setattr(owner, name, by(own))
    try:
        yield
    finally:
        setattr(owner, name, own)


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {name: freeze(value) for name, value in vars(module).items() if name not in _OF_TORCH}
