"""The plans of the sections between cuts: what each does in training and in evaluation, and what it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import fx, nn

from distfa.core.modules.section import INPUT, Place, Plan, Program, Step
from distfa.sections.cuts import Positions
from distfa.sections.operations import traits

_KINDS = {"call_module": "module", "call_function": "function", "call_method": "method", "get_attr": "tensor"}


def plans(
    model: nn.Module, training: tuple[Positions, Sequence[int]], evaluation: tuple[Positions, Sequence[int]]
) -> tuple[Plan, ...]:
    """The plan of every section.

    Args:
        model: The model.
        training: The forward in training, and where it is cut.
        evaluation: The forward in evaluation, cut at the same places.
    """
    bounds = [[*pairwise((0, *cuts, len(forward.nodes)))] for forward, cuts in (training, evaluation)]
    parts = [
        tuple(_Part(forward, *between) for forward, between in zip((training[0], evaluation[0]), both, strict=True))
        for both in zip(*bounds, strict=True)
    ]
    held = [frozenset(name for part in both for name in part.held) for both in parts]
    held[0] |= _left(model, frozenset().union(*held))
    return tuple(
        Plan(
            training=trains.program,
            evaluation=evaluates.program,
            key=trains.key,
            holds=_with_other_names(model, names),
            parts=trains.named,
            cost=trains.cost,
        )
        for (trains, evaluates), names in zip(parts, held, strict=True)
    )


class _Part:
    """The operations of a forward between two positions.

    Attributes:
        program: As a section does them.
        held: Names of the modules that it calls and of the tensors that it reads.
        key: The name of the first of those that has parameters.
        named: (name, kind) of the modules that work on signals.
        cost: Counted operations for one sample.
    """

    def __init__(self, forward: Positions, first: int, last: int) -> None:
        self._forward, self._first = forward, first
        signals = [node for node in forward.nodes[first:last] if traits(node).signal and node.op != "placeholder"]
        self._input = forward.nodes[forward.input_of(first)] if first else forward.nodes[0]
        self._own = {self._input, *signals}
        needed = self._needed(signals)
        done = [node for node in forward.nodes if node in needed]
        output = forward.output if last == len(forward.nodes) else forward.nodes[forward.input_of(last)]
        self.program = self._program(done, output)
        self.held = frozenset(str(node.target) for node in done if node.op in ("call_module", "get_attr"))
        root = forward.model
        self.key = next((str(node.target) for node in done if _has_parameters(root, node)), "")
        called = [str(node.target) for node in signals if node.op == "call_module"]
        kinds = [(name, type(root.get_submodule(name)).__name__) for name in dict.fromkeys(called)]
        self.named = tuple(kinds) or ((self.key, "Parameter"),)
        self.cost = forward.cost(first, last)

    def _needed(self, signals: Sequence[fx.Node]) -> set[fx.Node]:
        """The signals, and all that is made again for them."""
        needed, waiting = set(signals), list(signals)
        while waiting:
            node = waiting.pop()
            found = [given for given in node.all_input_nodes if not traits(given).signal]
            found += [other for other in self._changing(node) if other not in needed]
            waiting += [each for each in found if each not in needed]
            needed |= {*found}
        return needed

    def _changing(self, node: fx.Node) -> list[fx.Node]:
        """The operations that change a constant in place before this operation reads it."""
        memory = {traits(given).memory for given in node.all_input_nodes if not traits(given).signal}
        before = self._forward.nodes[: self._forward.nodes.index(node)] if memory else ()
        return [other for other in before if not traits(other).signal and not memory.isdisjoint(traits(other).changes)]

    def _program(self, done: Sequence[fx.Node], output: fx.Node) -> Program:
        places = {self._input: INPUT} | {node: number for number, node in enumerate(done, start=1)}
        readers = {places[self._here(given)]: places[node] for node in done for given in node.all_input_nodes}
        steps = tuple(
            Step(
                kind=_KINDS[node.op],
                target=node.target,
                args=self._plain(node.args, places),
                kwargs=self._plain(node.kwargs, places),
                last_read=tuple(p for p, reader in readers.items() if reader == places[node] and p != places[output]),
            )
            for node in done
        )
        return Program(steps=steps, output=places[output])

    def _here(self, node: fx.Node) -> fx.Node:
        """The value, or the section's input where that tells as much: of rows, dtype, device."""
        return self._input if traits(node).signal and node not in self._own else node

    def _plain(self, argument: Any, places: Mapping[fx.Node, int]) -> Any:
        """An argument of a node, with places for values, in plain containers."""
        if isinstance(argument, fx.Node):
            return Place(places[self._here(argument)])
        if isinstance(argument, slice):
            return slice(*(self._plain(x, places) for x in (argument.start, argument.stop, argument.step)))
        if isinstance(argument, tuple | list) and type(argument).__name__ in ("tuple", "list", "immutable_list"):
            items = [self._plain(item, places) for item in argument]
            return tuple(items) if isinstance(argument, tuple) else items
        if isinstance(argument, dict):
            return {key: self._plain(item, places) for key, item in argument.items()}
        return argument


def _has_parameters(model: nn.Module, node: fx.Node) -> bool:
    if node.op == "get_attr":
        return str(node.target) in dict(model.named_parameters())
    return node.op == "call_module" and any(True for _ in model.get_submodule(str(node.target)).parameters())


def _left(model: nn.Module, held: frozenset[str]) -> frozenset[str]:
    """Names of the model's tensors that no section holds."""
    found = [name for name, _ in (*model.named_parameters(), *model.named_buffers())]
    return frozenset(name for name in found if not any(_is_in(name, each) for each in held))


def _with_other_names(model: nn.Module, names: frozenset[str]) -> tuple[str, ...]:
    """All names of these modules and tensors, without those that lie in another one of them."""
    modules = [*model.named_modules(remove_duplicate=False)]
    tensors = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    wanted = {id(each) for name, each in (*modules, *tensors) if name in names}
    found = {name for name, each in (*modules, *tensors) if name and id(each) in wanted} | names
    return tuple(name for name in sorted(found) if not any(_is_in(name, each) and name != each for each in found))


def _is_in(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")
