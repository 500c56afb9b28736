"""Where a traced forward can be cut: a single tensor is passed on, and nothing that is trained is on both sides.

Position p lies before operation p. What is made of constants only does not count: each section makes it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

from torch import fx, nn

from distfa.sections.operations import Key, named_tensors, traits
from distfa.sections.tracer import Trace


class Positions:
    """The positions of a trace, and what speaks against each.

    Args:
        trace: The trace.

    Attributes:
        nodes: Its operations, without the output.
        model: The copy of the model that was traced.
        output: What it returns.
        refused: Names of the modules that could not be entered, and why.
        changed: Names of the model's tensors that it changes.
    """

    def __init__(self, trace: Trace) -> None:
        self.nodes, self.model, self.refused = trace.nodes[:-1], trace.model, trace.refused
        self.output: fx.Node = trace.nodes[-1].all_input_nodes[0]
        self.changed = trace.changed.union(
            *({memory for memory in traits(node).changes if isinstance(memory, str)} for node in self.nodes)
        )
        self._place = {node: place for place, node in enumerate(trace.nodes)}
        self._signals = [place for place, node in enumerate(self.nodes) if traits(node).signal]
        self._last_reader = {
            place: max((self._place[u] for u in self.nodes[place].users if self._reads(u)), default=place)
            for place in self._signals
        }

    def why_not(self, position: int) -> str:
        """The reason against a cut; empty if there is none."""
        live = self._live(position)
        if len(live) != 1:
            names = ", ".join(_call_it(self.nodes[place]) for place in live)
            return f"{len(live)} values would cross it, from {names}, but only one tensor can go to the next layer"
        one, source = traits(self.nodes[live[0]]), _call_it(self.nodes[live[0]])
        if one.shape is None:
            return f"the value that would cross it, from {source}, is not a tensor of numbers with one row per sample"
        if any(one.memory in traits(node).changes for node in self.nodes[position:]):
            return f"the tensor that would cross it, from {source}, is changed in place later"
        for name, (first, last) in self._spans.items():
            if first < position <= last:
                return (
                    f"{name!r} would be in two layers, since {_call_it(self.nodes[first])} and "
                    f"{_call_it(self.nodes[last])} both use it"
                )
        return ""

    def tied(self) -> str:
        """The tensor of the model that most positions lie between two uses of; empty if there is none."""
        spans = {name: last - first for name, (first, last) in self._spans.items() if last > first}
        return max(spans, key=spans.__getitem__, default="")

    def openings(self, *, head: bool = False) -> list[int]:
        """The finest cuts: between two operations with weights, the last position that is possible.

        Args:
            head: Whether the highest cut is at the first one instead, as for ``group``.
        """
        opening = [place for place, node in enumerate(self.nodes) if traits(node).opens]
        between = [range(last, first, -1) for first, last in pairwise(opening)]
        found = [[place for place in places if self.possible(place)] for places in between]
        cuts = [places for places in found if places]
        return [places[-1 if head and places is cuts[-1] else 0] for places in cuts]

    def possible(self, position: int) -> bool:
        """Whether nothing speaks against it."""
        return not self.why_not(position)

    def input_of(self, position: int) -> int:
        """The place of the one value that is passed on there."""
        return self._live(position)[0]

    def key(self, position: int) -> Key:
        """Where a cut is, so that another trace of the model can find it: it may enter fewer modules."""
        below, above = (traits(self._signal_near(position, up)).key for up in (False, True))
        common = next((n for n, pair in enumerate(zip(below, above, strict=False)) if pair[0] != pair[1]), len(below))
        return above[: common + 1]

    def find(self, key: Key) -> int | None:
        """The position of a key; None if there is none."""
        found = (place for place in self._signals if traits(self.nodes[place]).key[: len(key)] == key)
        return next(found, None)

    def find_module(self, name: str) -> int | None:
        """The position before the first operation of a module, or of a module in it; None if there is none."""
        for place in self._signals:
            path = traits(self.nodes[place]).path
            if place and (path == name or path.startswith(f"{name}.")):
                return place
        return None

    def entered(self, positions: Sequence[int]) -> set[str]:
        """Names of the modules that cuts at these positions pass through."""
        found = set()
        for position in positions:
            calls = len(self.key(position)) - 1
            found |= {label.rpartition("#")[0] for label in traits(self._signal_near(position, True)).key[:calls]}
        return found

    def cost(self, first: int, last: int) -> int:
        """Counted operations between two positions."""
        return sum(traits(node).cost for node in self.nodes[first:last])

    @cached_property
    def _spans(self) -> dict[str, tuple[int, int]]:
        """First and last signal that reads a tensor of the model, for those that are trained or change."""
        first_names: dict[int, str] = {}
        for name, tensor in named_tensors(self.model):
            first_names.setdefault(id(tensor), name)
        owned = {
            first_names[id(tensor)]
            for name, tensor in named_tensors(self.model)
            if name in self.changed or (isinstance(tensor, nn.Parameter) and tensor.requires_grad)
        }
        read: dict[fx.Node, frozenset[str]] = {}
        spans: dict[str, tuple[int, int]] = {}
        for place, node in enumerate(self.nodes):
            made = [read[given] for given in node.all_input_nodes if not traits(given).signal]
            read[node] = traits(node).reads.union(*made)
            for name in sorted(read[node] & owned) if traits(node).signal else ():
                spans[name] = (spans.get(name, (place, place))[0], place)
        return spans

    def _live(self, position: int) -> list[int]:
        return [p for p in self._signals if p < position <= self._last_reader[p]]

    def _reads(self, node: fx.Node) -> bool:
        """Whether it is a signal or the output; what only reads a size or a dtype finds that in its own input."""
        return node.op == "output" or traits(node).signal

    def _signal_near(self, position: int, up: bool) -> fx.Node:
        place = next(p for p in self._signals if p >= position) if up else max(p for p in self._signals if p < position)
        return self.nodes[place]


def _call_it(node: fx.Node) -> str:
    """An operation as messages name it."""
    if node.op == "placeholder":
        return "the input"
    path = traits(node).path
    if node.op == "call_module":
        return repr(path)
    return f"{traits(node).key[-1].partition('#')[0]}() in {path or 'forward'!r}"
