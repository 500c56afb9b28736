"""One layer of a model that is no ``nn.Sequential``: some steps of its forward, on the model's own modules and tensors.

A plan says which steps. It knows modules and tensors by the names they have in the model, so it can be laid over any
copy of the model; its state_dict has the model's keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

INPUT = 0
"""The place of a section's input among its values."""


_LIKE: dict[str, tuple[list[Any] | None, nn.Module]] = {
    "relu": ([], nn.ReLU()),
    "tanh": ([], nn.Tanh()),
    "flatten": ([1], nn.Flatten()),
}
"""Modules that do what functions and methods of these names do, if they are given only this beside a signal."""


class Place(NamedTuple):
    """Stands in a step's arguments for the value at that place: ``INPUT``, or that of the step of this number."""

    number: int


@dataclass(frozen=True, kw_only=True)
class Step:
    """One operation.

    Attributes:
        kind: ``module``, ``function``, ``method``, or ``tensor`` for a parameter or buffer that is read.
        target: The name of the module or tensor in the model, the function, or the name of the method.
        args: Its arguments; ``Place`` for values.
        kwargs: Those with names.
        last_read: Places that no later step reads.
    """

    kind: str
    target: Any
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    last_read: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Program:
    """Steps one after another.

    Attributes:
        steps: The first is number 1.
        output: The place of what they give in the end.
    """

    steps: tuple[Step, ...]
    output: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The operations and tensors of a section.

    Attributes:
        training: What it does in training.
        evaluation: What it does in evaluation: something else where the model asks ``self.training``.
        key: The name of its first module or tensor that is trained.
        holds: Names in the model of the modules and tensors that belong to it.
        parts: (name, kind) of the modules that it calls, in order.
        cost: Counted operations of a forward for one sample.
    """

    training: Program
    evaluation: Program
    key: str
    holds: tuple[str, ...]
    parts: tuple[tuple[str, str], ...]
    cost: int = 0

    def __deepcopy__(self, memo: object) -> Plan:
        return self  # nothing in it changes


class Section(nn.Module):
    """The layer that a plan describes.

    Args:
        plan: The plan.
        model: The model, or a copy of it; the section has its modules and tensors, not copies.
    """

    def __init__(self, plan: Plan, model: nn.Module) -> None:
        super().__init__()
        self.plan = plan
        for name in plan.holds:
            self._hold(name, model)
        self.training = model.training

    def forward(self, x: Tensor) -> Tensor:
        program, values = self.plan.training if self.training else self.plan.evaluation, dict[int, Any]({INPUT: x})
        for number, step in enumerate(program.steps, start=1):
            values[number] = self._carry_out(step, filled(step.args, values), filled(step.kwargs, values))
            for place in step.last_read:
                del values[place]
        output: Tensor = values[program.output]
        return output

    def leaves(self) -> list[tuple[str, nn.Module]]:
        """Its modules one after another, and modules in place of functions; empty if it is no plain chain of those."""
        found = []
        for number, step in enumerate(self.plan.training.steps):
            called = step.target if isinstance(step.target, str) else getattr(step.target, "__name__", "")
            is_module = step.kind == "module"
            others, module = ([], self.get_submodule(called)) if is_module else _LIKE.get(called, (None, self))
            if step.args != (Place(number), *(others or ())) or others is None or step.kwargs:
                return []
            found.append((called if is_module else "", module))
        return found

    def _carry_out(self, step: Step, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if step.kind == "method":
            return getattr(args[0], step.target)(*args[1:], **kwargs)
        work = step.target
        if isinstance(work, str):
            work = self
            for part in step.target.split("."):
                work = getattr(work, part)
        return work if step.kind == "tensor" else work(*args, **kwargs)

    def _hold(self, name: str, model: nn.Module) -> None:
        """Put the model's module or tensor of this name under the same name."""
        *path, last = name.split(".")
        theirs, mine = model, self
        for part in path:
            theirs = getattr(theirs, part)
            if part not in mine._modules:
                mine.add_module(part, nn.Module())
            mine = mine._modules[part]  # type: ignore[assignment]
        if last in theirs._buffers:
            mine.register_buffer(last, theirs._buffers[last], last not in theirs._non_persistent_buffers_set)
        else:
            setattr(mine, last, getattr(theirs, last))


def filled(argument: Any, values: Mapping[int, Any]) -> Any:
    """An argument with the values at its places."""
    kind = type(argument)
    if kind is Place:
        return values[argument.number]
    if kind in (tuple, list):
        return kind(filled(item, values) for item in argument)
    if kind is dict:
        return {key: filled(item, values) for key, item in argument.items()}
    if kind is slice:
        return slice(*(filled(item, values) for item in (argument.start, argument.stop, argument.step)))
    return argument


def rows_of(x: Tensor) -> int:
    """How many samples there are."""
    return len(x)
