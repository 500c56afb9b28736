"""Runs each layer once as the run will: in its dtype, and on one row where a part of the run has only one.

What a layer cannot do is then known before anything starts, and not at the end of the first epoch.
"""

from __future__ import annotations

import torch
from torch import nn

from distfa.core import rules
from distfa.core.base import order
from distfa.core.base.recipe import Recipe
from distfa.core.modules.attributes import KEY
from distfa.core.modules.module_block import ModuleBlock
from distfa.errors import ModelError
from distfa.intake.subject import Subject


def rehearse(recipe: Recipe, subject: Subject, *, train_rows: int, test_rows: int) -> None:
    """Run each layer that is not plain.

    Args:
        recipe: The run's.
        subject: What is trained.
        train_rows: Samples of the training set.
        test_rows: Of the test set.

    Raises:
        ModelError: A layer cannot; the message names it and says what to do.
    """
    for number, module in subject.modules.items():
        spec = recipe.network[number]
        if spec.plain:
            continue
        layer = _Rehearsed(recipe, number, module)
        if recipe.replicas > 1:
            layer.require_constant()
        if any(p.dtype != recipe.signal_dtype for p in module.parameters()):
            layer.require_dtype()
        if (why := layer.failure(1, training=True)) and (where := _find_one_row_part(recipe, train_rows)):
            raise ModelError(f"{layer.name} cannot train on one row ({why}), and {where}")
        if (why := layer.failure(1, training=False)) and 1 in _evaluation_rows(recipe, train_rows, test_rows):
            raise ModelError(
                f"{layer.name} cannot evaluate one row ({why}), and the last part of an evaluation has only one; "
                "use one sample more or less, or have the module use running statistics"
            )


def _find_one_row_part(recipe: Recipe, rows: int) -> str:
    """Where training has a micro-batch of one row, and what to do; empty if there is none."""
    batch, parts = recipe.batch_size, recipe.micro_batches
    renewed = recipe.feedback.renew.rows == 1 and rules.build_rule(recipe).ever_renews
    if renewed and len(recipe.network) > 1:
        return "feedback is renewed from one; set feedback.renew.rows to 2 or more"
    if 1 not in order.part_rows(recipe, rows):
        return ""
    if batch // min(parts, batch) > 1:
        where = f"the last batch of an epoch has one: {rows} samples in batches of {batch}"
    else:
        where = f"a batch of {batch} in {parts} micro-batches has parts of one"
    found = next((b for b in range(batch + 1, 2 * batch + 8 * parts + 8) if _least(rows, b, parts) > 1), None)
    other = f"set batch_size to {found}" if found else "use another batch_size"
    return f"{where}; {other}, use fewer micro_batches, or pass a DataLoader with drop_last=True"


def _least(rows: int, batch: int, parts: int) -> int:
    """Rows of the smallest micro-batch."""
    return min(n // min(parts, n) for n in {min(batch, rows), (rows - 1) % batch + 1})


def _evaluation_rows(recipe: Recipe, train_rows: int, test_rows: int) -> set[int]:
    """How many rows the parts of evaluations have, and the audit."""
    return {len(part) for part in order.evaluation(recipe, test_rows)} | {len(order.audit(recipe, train_rows))}


class _Rehearsed:
    """A layer as its run will have it."""

    def __init__(self, recipe: Recipe, number: int, module: nn.Module) -> None:
        self._recipe, self._spec = recipe, recipe.network[number]
        self._tokens = recipe.network.tokens and number == 1
        self.name = f"layer {number} ({', '.join(f'{name} {kind}' for name, kind in self._spec.modules)})"
        self._block = ModuleBlock(module, trained=self._spec.trained, dtype=recipe.dtype, signals=recipe.signal_dtype)

    def require_dtype(self) -> None:
        """Refuse a layer that cannot run in the run's dtype, or that leaves it.

        Raises:
            ModelError: Says what to do.
        """
        why = self.failure(2, training=True) or self.failure(2, training=False)
        if why is not None:
            run = str(self._recipe.signal_dtype).removeprefix("torch.")
            raise ModelError(
                f"{self.name} cannot run with dtype: {run}, in which signals and products are {run}: {why}. Have "
                "its forward pass create new tensors with the dtype of its input (dtype=x.dtype), or use dtype: "
                "float32"
            )

    def require_constant(self) -> None:
        """Refuse a layer whose forward changes its state, since replicas of it would no longer be alike.

        Raises:
            ModelError: Says what changes, and what to do.
        """
        before = {name: value.clone() for name, value in self._block.state().items()}
        self._block.forward(self._draw(2))
        after = self._block.state()
        if changed := [name for name in after if name not in before or not torch.equal(after[name], before[name])]:
            what = f"attributes of {changed[0].removeprefix(KEY)}" if changed[0].startswith(KEY) else changed[0]
            raise ModelError(
                f"{self.name} changes its state in its forward ({what}), which replicas of a layer do not share "
                "yet: each sees only its own micro-batches; set ray.replicas to 1, or use a normalisation without "
                "running statistics (GroupNorm, LayerNorm)"
            )

    def _draw(self, rows: int) -> torch.Tensor:
        shape = (rows, *self._spec.input_shape)
        drawn = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(self._recipe.signal_dtype)
        return torch.zeros(shape, dtype=torch.int64) if self._tokens else drawn

    def failure(self, rows: int, *, training: bool) -> str | None:
        """The error that it raises for some rows, in words; None if it takes them."""
        x = self._draw(rows)
        try:
            if not training:
                self._block.infer(x)
                return None
            tape = self._block.forward(x, aside=True)
            if tape.h.dtype != self._recipe.signal_dtype:
                return f"TypeError: its output is {tape.h.dtype}"
            self._block.gradients(torch.ones_like(tape.h), tape)
        except Exception as exc:
            return f"{type(exc).__name__}: {' '.join(str(exc).split())}"
        return None
