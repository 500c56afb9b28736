"""A layer's ends of the rule: the state with which it sends errors down, and the state with which it reads its error.

The rule says what the state is and what is computed with it. This file keeps it, renews it, trains it where the rule
says so, and saves it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from distfa.core import rules
from distfa.core.base import optim
from distfa.core.base.recipe import Recipe
from distfa.core.books.digest import of_matrix
from distfa.core.modules.block import Block
from distfa.core.modules.linear_block import add_product

_TEACHER = ""  # the teacher's name among learned feedback; all others have the name of a weight


class Operand:
    """A matrix that is updated, in the form that products take: itself, or a copy in the dtype of the signals.

    Args:
        master: The matrix that the optimizer updates.
        dtype: The dtype of the signals.
    """

    def __init__(self, master: Tensor, dtype: torch.dtype) -> None:
        self.master = master
        self.value = master.to(dtype)

    def follow(self) -> None:
        """Copy an update of the master."""
        if self.value is not self.master:
            self.value.copy_(self.master)


class Ends:
    """The rule's state at one layer.

    Args:
        recipe: The run's.
        index: The layer, counted from 1.
        rule: The run's.
        block: The layer's inside, at its initial weights.
        device: The device of the signals.

    Attributes:
        origin: For every boundary that the layer sends errors across (and for its own, with feedback inside it):
            tensors in the dtype of signals, by the name of the weight whose place they take.
        teacher: The matrix by which the layer multiplies the message it gets; None where the message is s_l itself.
        learned: Those tensors of both that are updated at every step: by the weight's name, the teacher by the empty
            name.
        optimizer: The optimizer of ``learned``.
    """

    def __init__(self, recipe: Recipe, index: int, rule: rules.Rule, block: Block, device: torch.device) -> None:
        self._recipe, self._index, self._rule, self._block, self._device = recipe, index, rule, block, device
        is_output = index == len(recipe.network)
        # The lowest boundary first: the layer below it needs its error first, for the forward of its next step.
        self.sends_to = tuple(rule.sent_by.get(index, ()))
        self.inside = index - 1 if recipe.feedback.inside == "feedback" and rule.stands_in else None
        kept = {*self.sends_to, *([] if self.inside is None else [self.inside])}
        drawn = {b: rule.origin_state(b, block.weights()) for b in kept}
        self.origin = {b: self._signals(state) for b, state in drawn.items()}
        teacher = None if is_output else rule.teacher(index)
        self.teacher = None if teacher is None else self.signal(teacher)
        self.learned: dict[str, Operand] = {}
        if teacher is not None and rule.learns_at_learner(index):
            self.learned[_TEACHER] = Operand(teacher.to(device, recipe.dtype), recipe.signal_dtype)
            self.teacher = self.learned[_TEACHER].value
        for boundary in (b for b in kept if rule.learns_at_origin(b)):
            for name, feedback in drawn[boundary].items():
                if name not in block.trained:
                    continue
                self.learned[name] = Operand(feedback.to(device, recipe.dtype, copy=True), recipe.signal_dtype)
                self.origin[boundary][name] = self.learned[name].value
        how, masters = rule.feedback_optimizer(), {name: operand.master for name, operand in self.learned.items()}
        self._folds, self._factors = how.fold, optim.Factors()
        self.optimizer = optim.Optimizer(how, masters, self._factors)
        self._digests = {key: of_matrix(value) for key, value in self._fixed().items()} if recipe.probe.every else {}

    def altered(self) -> tuple[str, ...]:
        """The matrices that nothing in a run changes, and that are no longer what they were made as; by their keys."""
        return tuple(key for key, value in self._fixed().items() if of_matrix(value) != self._digests[key])

    def refresh(self, step: int) -> None:
        """Draw what the rule draws for each step."""
        for boundary in self.origin:
            fresh = self._rule.refresh(boundary, step, self._block.weights())
            if fresh is not None:
                self.origin[boundary] = self._signals(fresh)

    def renew(self, feedback: Tensor) -> None:
        """Take rows of a renewal, mean dlogits/dh_l, as the new teacher."""
        made = self._rule.teacher_from_rows(feedback)
        if _TEACHER not in self.learned:
            self.teacher = self.signal(made)
            self._digests |= {"teacher": of_matrix(self.teacher)} if self._digests else {}
            return
        self.learned[_TEACHER].master.copy_(made)
        self.learned[_TEACHER].follow()

    def feedback(self) -> Tensor:
        """A copy of the teacher; of a learned one a copy of its master."""
        if _TEACHER in self.learned:
            return self.learned[_TEACHER].master.clone()
        if self.teacher is None:
            raise ValueError("only a layer with a teacher has feedback of its own")
        return self.teacher.clone()

    def standing_in(self) -> Mapping[str, Tensor] | None:
        """Stand-ins for the weights in the layer's own gradient; None where that gradient is exact."""
        if self.inside is None:
            return None
        return self._rule.stand_in(self.origin[self.inside], self._block.weights())

    def learn(self, message: Tensor, h: Tensor, *, first: bool) -> None:
        """Add one micro-batch's message^T h_l to the gradient of a learned teacher; the first one of a step sets it."""
        if _TEACHER in self.learned:
            rows, columns = self.learned[_TEACHER].master.shape
            left, right = message.reshape(-1, rows), h.reshape(-1, columns)
            factors = self._factors if self._folds else None
            add_product(self.learned[_TEACHER].master, left, right, first=first, factors=factors)

    def taught(self) -> list[Tensor]:
        """The learned teacher, if there is one: it accumulates a gradient of its own."""
        return [operand.master for name, operand in self.learned.items() if name == _TEACHER]

    def share_gradients(self) -> None:
        """Give each feedback tensor that is kept beside a weight the gradient of that weight."""
        for name, operand in self.learned.items():
            if name == _TEACHER:
                continue
            weight = self._block.trained[name]
            operand.master.grad = weight.grad
            if products := (self._block.factors or {}).get(weight):
                self._factors[operand.master] = products

    def descend(self, step: int, lr: float) -> None:
        """Make the optimizer's step of all learned feedback."""
        self.optimizer.step(lr, step)
        for operand in self.learned.values():
            operand.follow()

    def matrix_of_the_law(self) -> Tensor | None:
        """The matrix for the potential of the boundary below, in float64: the numbers as products take them."""
        below, spec = self._index - 1, self._recipe.network[self._index]
        if not below or self._rule.potential_layer(below) != self._index:
            return None
        fixed: Tensor | None = None
        if isinstance(self._rule, rules.DirectRule):
            fixed = self._rule.direct_feedback(below)
        elif spec.linear_in:
            fixed = self._rule.fixed_feedback(below, spec.weights[0].name, self.origin.get(below, {}))
        return None if fixed is None else self.signal(fixed.reshape(len(fixed), -1)).double()

    def state_dict(self) -> dict[str, Tensor]:
        """All of it, by names that say what each is."""
        found = {}
        for name, operand in self.learned.items():
            found[f"learned.{name}"] = operand.master
            kept = self.optimizer.state[operand.master]
            found |= {f"learned_optimizer.{name}.{key}": value for key, value in kept.items()}
        return found | self._kept() | {f"digest.{key}": torch.tensor(value) for key, value in self._digests.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on where ``state_dict`` was taken."""
        for name, operand in self.learned.items():
            operand.master.copy_(state[f"learned.{name}"])
            operand.follow()
            self.optimizer.take(operand.master, under(f"learned_optimizer.{name}.", state, self._device))
        if (teacher := self._kept().get("teacher")) is not None:
            teacher.copy_(state["teacher"])
        for boundary, held in self.origin.items():
            held |= under(f"origin.{boundary}.", state, self._device)
        if not self._recipe.network.seeded or self._rule.ever_renews:  # else this process has drawn them from the seed
            made = {key: state.get(f"digest.{key}") for key in self._digests}
            self._digests = {key: of_matrix(self._kept()[key]) if d is None else int(d) for key, d in made.items()}

    def signal(self, tensor: Tensor) -> Tensor:
        """The tensor in the dtype of signals, on their device."""
        return tensor.to(self._device, self._recipe.signal_dtype)

    def _signals(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.signal(value) for name, value in state.items()}

    def _kept(self) -> dict[str, Tensor]:
        """The matrices that do not learn, by their keys in ``state_dict``; shortcuts follow from the modules."""
        teacher = self.teacher
        found = {} if teacher is None or _TEACHER in self.learned or teacher.is_sparse else {"teacher": teacher}
        for boundary, state in self.origin.items():
            found |= {f"origin.{boundary}.{name}": v for name, v in state.items() if name not in self.learned}
        return found

    def _fixed(self) -> dict[str, Tensor]:
        """Those of them that stay as they were made."""
        return {} if self._rule.redraws else self._kept()

    def tensors(self) -> Iterable[Tensor]:
        """Every matrix held, as products take it."""
        yield from (value for state in self.origin.values() for value in state.values())
        if self.teacher is not None:
            yield self.teacher.values() if self.teacher.is_sparse else self.teacher


def under(prefix: str, state: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Copies of what ``state`` holds under a prefix, by names without the prefix."""
    return {
        name.removeprefix(prefix): value.to(device, copy=True)
        for name, value in state.items()
        if name.startswith(prefix)
    }
