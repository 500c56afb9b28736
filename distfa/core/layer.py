"""One layer: its block, its ends of the rule, its optimizer and its books; the same object in every engine.

Legend, for a micro-batch of n rows: h_in (n, *shape of h_{l-1}), h, s (n, *shape of h_l), delta as the block starts its
backward with it (``core.modules.block``), message (n, *the rule's shape). Every tensor that a layer hands out has newly
allocated, aligned memory: BLAS may round differently on other alignments, and engines must agree to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distfa.core import rules
from distfa.core.base import losses, optim
from distfa.core.base.draw import evaluation_seed, micro_batch_seed
from distfa.core.base.metrics import Meters
from distfa.core.base.private import Noise
from distfa.core.base.recipe import Recipe
from distfa.core.base.samples import Targets
from distfa.core.base.scored import Scored
from distfa.core.books.layer_ledger import LayerLedger
from distfa.core.books.ledger import Half
from distfa.core.books.probe import LayerProbe
from distfa.core.build import build_block
from distfa.core.ends import Ends, under
from distfa.core.modules.block import Block
from distfa.core.modules.rows import directions
from distfa.core.noising import Noising
from distfa.core.replicas import Accumulators

Part = tuple[int, int]
"""A micro-batch: (step, its number within the step)."""


@dataclass(kw_only=True)
class _Kept:
    """A micro-batch between its forward and its backward; ``updates`` made before it tell which weights it saw."""

    tape: Any
    updates: int
    message: Tensor | None = None
    error: Tensor | None = None


class Layer:
    """Layer ``index`` of the recipe's network.

    Updates are local: G is the block's own gradient, summed over the micro-batches of a step in order (with replicas in
    the order that ``core.replicas`` says), then one optimizer step.

    Args:
        recipe: What every layer of the run agrees on.
        index: l, counted from 1.
        device: The device of weights and signals.
        module: The layer as the user gave it, which is copied; a layer of a seeded network needs none, unless
            ``init`` is ``given``.
        rule: The recipe's rule, where several layers share it; None: one of its own.
        noise: What a layer of a private run draws its noise from.

    Attributes:
        accumulators: The gradients that its replicas accumulate.
        undecided: By step, what its probes saw, as long as it has not been decided whether this calls for a renewal.

    Raises:
        ModelError: There is no module, and the layer cannot be drawn from the seed.
        ValueError: The run is private, and there is no noise.
    """

    def __init__(
        self,
        recipe: Recipe,
        index: int,
        *,
        device: torch.device | str = "cpu",
        module: nn.Module | None = None,
        rule: rules.Rule | None = None,
        noise: Noise | None = None,
    ) -> None:
        self.index = index
        self.spec = recipe.network[index]
        self.device = torch.device(device)
        self._recipe, self._dtype, self._signal_dtype = recipe, recipe.dtype, recipe.signal_dtype
        self.is_output = index == len(recipe.network)
        self.rule = rules.build_rule(recipe) if rule is None else rule
        self.block: Block = build_block(recipe, index, self.device, module)
        self.ends = Ends(recipe, index, self.rule, self.block, self.device)
        self.sends_to = self.ends.sends_to
        self._active_only = (
            {b for b in self.sends_to if recipe.network[b].rectified and self.rule.carries_teaching(b)}
            if recipe.feedback.active_only
            else set()
        )
        self.optimizer = optim.Optimizer(recipe.optimizer, self.block.trained, self.block.factors)
        self._ledger = (
            LayerLedger(recipe, index, self.rule, self.ends.matrix_of_the_law(), self.device)
            if recipe.ledger.every and self.rule.potential
            else None
        )
        self._noising = None if recipe.private is None else Noising(recipe.private, index, noise)
        self._kept: dict[Part, _Kept] = {}
        self._updates = 0
        self.accumulators = Accumulators([*self.block.trained.values(), *self.ends.taught()])
        self.undecided: dict[int, LayerProbe] = {}
        self._held: dict[int, Any] = {}  # by step: what the block held before its first forward

    @cached_property
    def _loss(self) -> losses.Loss:
        recipe = self._recipe
        return losses.find_loss(recipe.loss, label_smoothing=recipe.label_smoothing, class_weights=recipe.class_weights)

    @property
    def parameters(self) -> list[Tensor]:
        """Its trained parameters, with the rule's G as their ``grad``."""
        self.optimizer.multiply_out()
        return list(self.block.trained.values())

    @property
    def weight(self) -> Tensor:
        """W_l, of a layer of one Linear."""
        return next(iter(self.block.trained.values()))

    @property
    def bias(self) -> Tensor | None:
        """b_l, of a layer of one Linear."""
        return self.parameters[1] if self.spec.bias else None

    def state(self) -> dict[str, Tensor]:
        """All parameters and buffers under the keys of the user's model."""
        return self.block.state()

    # -- a step ---------------------------------------------------------------------------------

    def begin_step(self, step: int) -> None:
        """Before the step's first backward: draw what the rule draws for each step."""
        self.ends.refresh(step)

    def infer(self, h_in: Tensor, part: int = 0) -> Tensor:
        """h in evaluation, of one part of the samples; nothing is kept for a backward pass."""
        seed = 0 if self.spec.plain else evaluation_seed(self._recipe.seed, self.index, part)
        return self.block.infer(self._signal(h_in), seed=seed)

    def forward(self, h_in: Tensor, part: Part, *, looked_at: bool = False) -> Tensor:
        """h in training, keeping what this micro-batch's backward needs.

        Args:
            h_in: h_{l-1}.
            part: The micro-batch.
            looked_at: Whether forwards outside training may follow in this step: they begin with what the layer holds
                now, however many forwards of its own it has made by then.
        """
        if looked_at and part[1] == 0:
            self._held[part[0]] = self.block.memory()
        tape = self.block.forward(self._signal(h_in), seed=self._seed(part))
        self._kept[part] = _Kept(tape=tape, updates=self._updates)
        h: Tensor = tape.h
        return h

    def held_before(self, step: int) -> Any:
        """The block's state before its first forward of a step, if that has been ``looked_at``."""
        return self._held.get(step)

    def forward_aside(self, h_in: Tensor, part: Part, *, since: Any) -> Any:
        """The tape of a forward outside training, which changes nothing.

        Args:
            h_in: h_{l-1}.
            part: The micro-batch, which decides what is drawn.
            since: What the block is to hold before it: ``held_before``, or the ``after`` of another such tape.
        """
        return self.block.forward(self._signal(h_in), seed=self._seed(part), aside=True, since=since)

    def score(self, output: Tensor, target: Tensor, rows: float) -> Scored:
        """The loss of one micro-batch of a batch of ``rows`` rows (``divisor``); output layer only."""
        scored = self._loss(output.to(self._dtype), target, rows)
        return replace(scored, gradient=self._signal(scored.gradient))

    def divisor(self, targets: Targets, rows: NDArray[np.int64]) -> float:
        """What the loss of all these rows together is divided by."""
        return losses.divisor(self._loss, targets.read, rows)

    def meters(self) -> Meters:
        """New ones, for one evaluation."""
        return Meters(self._recipe.metrics)

    def output_delta(self, scored: Scored, part: Part) -> Tensor:
        """delta_L, from dLoss/dh_L: the output layer always uses the exact error."""
        return self.block.start(scored.gradient, self._kept[part].tape)

    def teach(self, message: Tensor, part: Part) -> Tensor:
        """s_l, from the rule's error message to this layer."""
        return self.rule.teach(message, self.ends.teacher).view(self._kept[part].tape.h.shape)

    def hidden_delta(self, message: Tensor, part: Part) -> Tensor:
        """delta_l, from the rule's error message to this layer."""
        kept, s = self._kept[part], self.teach(message, part)
        kept.message = message
        delta = self.block.start(s, kept.tape)
        if self._ledger is not None:
            self._ledger.observe(part[0], s, delta, kept.tape)
            if self.rule.follows_shortcuts:
                self._ledger.add_pairing(part[0], s, kept.tape.h)
            elif self.rule.is_direct and self.ends.teacher is not None and not self.ends.learned:
                self._ledger.add_readout(part[0], message, kept.tape.h, self.ends.teacher)
        return delta

    def label_message(self, target: Tensor, rows: int) -> Tensor:
        """The message of a rule that reads labels instead of errors: the target / rows, (n, *output)."""
        positions, classes = self._recipe.network.positions, self._recipe.network.outputs
        if target.is_floating_point():
            return self._signal(target / rows)
        onehot = torch.zeros(*target.shape, classes, dtype=self._signal_dtype, device=self.device)
        for length in positions:
            rows *= length
        return onehot.scatter_(-1, target.unsqueeze(-1), 1.0 / rows)

    def emit(self, boundary: int, delta: Tensor, part: Part | None = None) -> Tensor:
        """The rule's error message across ``boundary``, one of ``sends_to``; a hidden layer passes on the output's."""
        kept = None if part is None else self._kept[part]
        if kept is not None and kept.message is not None and self.rule.is_direct:
            return kept.message
        tape = None if kept is None else kept.tape
        message = self.rule.emit(
            self._error(delta, kept) if self.rule.is_direct and kept is not None else delta,
            self.ends.origin[boundary],
            self.block.weights(),
            lambda stand_in: self.block.back(delta, tape, stand_in, inside=self.ends.inside is not None),
        )
        if part is None or tape is None:
            return message
        if boundary in self._active_only:
            message = torch.where(tape.h_in == 0, 0.0, message.view(tape.h_in.shape))
        if self._ledger is not None and not self.rule.is_direct:
            self._ledger.add_message(part[0], message, tape.h_in)
        return message

    def accumulate(self, delta: Tensor, part: Part) -> None:
        """Add this micro-batch's gradient; forget its forward."""
        kept = self._kept.pop(part)
        first = self.accumulators.begins(part[1] % self._recipe.replicas)
        if self._noising is not None:
            delta = self._noising.clip(delta, self.block.sample_norms(delta, kept.tape), step=part[0])
        self.block.accumulate(delta, kept.tape, first=first, stand_in=self.ends.standing_in())
        if kept.message is not None:
            self.ends.learn(kept.message, kept.tape.h, first=first)
        if self._ledger is not None and kept.updates < self._updates:
            self._ledger.note_drift(part[0], self.optimizer)

    def update(self, step: int, lr: float) -> list[Half]:
        """One optimizer step with the gradient of all micro-batches so far; returns its entries in the books."""
        self._updates += 1
        self._held.pop(step, None)
        if self._noising is not None:
            self._noising.add_noise(self.parameters, step=step, empty=self.accumulators.empty)
        self.ends.share_gradients()
        if self._ledger is None:
            self._descend(step, lr)
            return []
        return self._ledger.enter(step, lr, lambda: self._descend(step, lr), self.optimizer, self.ends.optimizer)

    # -- renewal --------------------------------------------------------------------------------

    def renew(self, feedback: Tensor | None, part: Part) -> Tensor | None:
        """Keep the rows that came as the new feedback of a hidden layer, and make the rows for the layer below.

        Args:
            feedback: mean dlogits/dh_l, (C, numbers of h_l at a position); None at the output layer, for the identity.
            part: A micro-batch that has had its forward; the mean is over its first rows.

        Returns:
            mean dlogits/dh_{l-1}; None at the first layer.

        Source: theory.md, Feedback that is renewed.
        """
        if feedback is not None:
            before = None if self._ledger is None else self.ends.feedback()
            self.ends.renew(feedback)
            if self._ledger is not None and before is not None:
                self._ledger.note_renewal(part[0], before, self.ends.feedback(), learned=bool(self.ends.learned))
        if self.index == 1:
            return None
        rows = self._kept[part].tape.h_in[: self._recipe.feedback.renew.rows]
        rank = None if self.is_output else directions(self._recipe.network, self.index)
        tape = self.forward_aside(rows, part, since=self.held_before(part[0]))
        return self.block.pass_on(feedback, tape, rank)

    def back_exactly(self, delta: Tensor, part: Part) -> Tensor:
        """A micro-batch's delta taken back through the layer's own weights: shape of h_{l-1}."""
        return self.block.back(delta, self._kept[part].tape, {})

    # -- all of it ------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """All that the layer needs to continue between two steps; every name says what it is."""
        found = {f"model.{name}": value for name, value in self.block.state().items()}
        for name, parameter in self.block.trained.items():
            found |= {f"optimizer.{name}.{key}": value for key, value in self.optimizer.state[parameter].items()}
        found |= self.ends.state_dict()
        if self._ledger is not None:
            found |= {f"ledger.{name}": value for name, value in self._ledger.state_dict().items()}
        found["updates"] = torch.tensor(self._updates)
        for step, probe in self.undecided.items():
            found[f"undecided.{step}"] = probe.to_message(torch.float64)
        return {name: value.detach().clone() for name, value in found.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on where ``state_dict`` was taken, bit for bit.

        Raises:
            KeyError: It was taken from another layer.
        """
        self.block.load({name.removeprefix("model."): v for name, v in state.items() if name.startswith("model.")})
        for name, parameter in self.block.trained.items():
            self.optimizer.take(parameter, under(f"optimizer.{name}.", state, self.device))
        self.ends.load_state_dict(state)
        if self._ledger is not None:
            self._ledger.matrix = self.ends.matrix_of_the_law()
            self._ledger.load_state_dict(under("ledger.", state, self.device))
        self._updates = int(state["updates"])
        for name, tally in under("undecided.", state, self.device).items():
            self.undecided[int(name)] = LayerProbe.from_message(tally, step=int(name), layer=self.index)

    # -- parts ----------------------------------------------------------------------------------

    def _descend(self, step: int, lr: float) -> None:
        self.optimizer.step(lr, step)
        self.block.follow()
        self.ends.descend(step, lr)
        self.accumulators.clear()

    def _error(self, delta: Tensor, kept: _Kept) -> Tensor:
        """What a direct rule sends, from the output layer's delta: the same for all boundaries."""
        if kept.error is None:
            tape, whole = kept.tape, self.rule.follows_shortcuts
            kept.error = self.block.back(delta, tape, {}) if whole else self.block.error(delta, tape)
        return kept.error

    def _seed(self, part: Part) -> int:
        return 0 if self.spec.plain else micro_batch_seed(self._recipe.seed, self.index, *part)

    def _signal(self, tensor: Tensor) -> Tensor:
        """In the dtype of signals; tokens stay what they are."""
        return tensor.to(self._signal_dtype) if tensor.is_floating_point() else tensor
