"""One layer: its block, its ends of the rule, its optimizer and its books; the same object in every engine.

Legend, for a micro-batch of n rows: h_in (n, *shape of h_{l-1}), h, s (n, *shape of h_l), delta as the block starts its
backward with it (``core.modules.block``), message (n, *the rule's shape). Every tensor that a layer hands out has newly
allocated, aligned memory: BLAS may round differently on other alignments, and engines must agree to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from distfa.core import rules
from distfa.core.base import losses, optim
from distfa.core.base.draw import evaluation_seed, micro_batch_seed
from distfa.core.base.losses import Scored
from distfa.core.base.recipe import Recipe
from distfa.core.books.layer_ledger import LayerLedger
from distfa.core.books.ledger import Half
from distfa.core.books.probe import LayerProbe, carried, measure, row_cosines, sound
from distfa.core.books.rounding import Rounding
from distfa.core.build import build_block
from distfa.core.ends import Ends, under
from distfa.core.modules.block import Block
from distfa.core.modules.rows import directions

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

    Updates are local: G is the block's own gradient, summed over the micro-batches of a step in order, then one
    optimizer step.

    Args:
        recipe: What every layer of the run agrees on.
        index: l, counted from 1.
        device: The device of weights and signals.
        module: The layer as the user gave it, which is copied; a layer of a seeded network needs none, unless
            ``init`` is ``given``.

    Attributes:
        undecided: By step, what its probes saw, as long as it has not been decided whether this calls for a renewal.

    Raises:
        ModelError: There is no module, and the layer cannot be drawn from the seed.
    """

    def __init__(
        self, recipe: Recipe, index: int, *, device: torch.device | str = "cpu", module: nn.Module | None = None
    ) -> None:
        self.index = index
        self.spec = recipe.network[index]
        self.device = torch.device(device)
        self._recipe, self._dtype, self._signal_dtype = recipe, recipe.dtype, recipe.signal_dtype
        self.is_output = index == len(recipe.network)
        self._loss = losses.find_loss(
            recipe.loss, label_smoothing=recipe.label_smoothing, class_weights=recipe.class_weights
        )
        self.rule = rules.build_rule(recipe)
        self.block: Block = build_block(recipe, index, self.device, module)
        self.ends = Ends(recipe, index, self.rule, self.block, self.device)
        self.sends_to = self.ends.sends_to
        self._active_only = (
            {b for b in self.sends_to if recipe.network[b].rectified and self.rule.carries_teaching(b)}
            if recipe.feedback.active_only
            else set()
        )
        self.optimizer = optim.Optimizer(recipe.optimizer, self.block.trained)
        self._ledger = (
            LayerLedger(recipe, index, self.rule, self.ends.matrix_of_the_law(), self.device)
            if recipe.ledger.every and self.rule.potential
            else None
        )
        self._round_off = float(Rounding(recipe).of_products(1.0, 1.0))
        self._kept: dict[Part, _Kept] = {}
        self._updates = 0
        self._has_gradient = False
        self._probed = False
        self.undecided: dict[int, LayerProbe] = {}
        self._probe_tapes: dict[int, Any] = {}
        # by step: what the layer held before its first forward, for those outside training
        self._began: dict[int, Any] = {}
        self._reached: Any = None  # what it holds after the last forward of a probe
        self._true_gradients: list[Tensor] = []
        self._active: Tensor | None = None
        self._message = self._taught = self._sound = torch.empty(0)  # of the last backward
        self._cosines: list[Tensor] = []

    @property
    def parameters(self) -> list[Tensor]:
        """Its trained parameters, with the rule's G as their ``grad``."""
        return list(self.block.trained.values())

    @property
    def weight(self) -> Tensor:
        """W_l, of a layer of one Linear."""
        return self.parameters[0]

    @property
    def bias(self) -> Tensor | None:
        """b_l, of a layer of one Linear."""
        return self.parameters[1] if self.spec.bias else None

    def state(self) -> dict[str, Tensor]:
        """All parameters and buffers under the keys of the user's model."""
        return self.block.state()

    # -- a step ---------------------------------------------------------------------------------

    def begin_step(self, step: int, *, probed: bool = False) -> None:
        """Before the step's first backward: draw what the rule draws for each step; open the books if an entry is due.

        Args:
            step: Counted from 0.
            probed: Whether gradient alignment is probed in this step.
        """
        self._probed = probed
        self._cosines = []
        if self._ledger is not None:
            self._ledger.begin(step)
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
            self._began[part[0]] = self.block.memory()
        tape = self.block.forward(self._signal(h_in), seed=self._seed(part))
        self._kept[part] = _Kept(tape=tape, updates=self._updates)
        h: Tensor = tape.h
        return h

    def score(self, output: Tensor, target: Tensor, rows: int) -> Scored:
        """The loss of one micro-batch of a batch of ``rows`` rows; output layer only."""
        scored = self._loss(output.to(self._dtype), target, rows)
        return replace(scored, gradient=self._signal(scored.gradient))

    def output_delta(self, scored: Scored, part: Part) -> Tensor:
        """delta_L, from dLoss/dh_L: the output layer always uses the exact error."""
        self._taught = scored.gradient
        if self._probed:
            self._sound = self._taught.flatten(1).norm(dim=1) > self._round_off * scored.scale
        return self.block.start(scored.gradient, self._kept[part].tape)

    def hidden_delta(self, message: Tensor, part: Part) -> Tensor:
        """delta_l, from the rule's error message to this layer."""
        kept = self._kept[part]
        kept.message = message if self.ends.learned else None
        self._message = message
        s = self.rule.teach(message, self.ends.teacher).view(kept.tape.h.shape)
        if self._probed:
            self._taught = s
        delta = self.block.start(s, kept.tape)
        if self._ledger is not None:
            self._ledger.observe(s, delta, kept.tape)
            if self.rule.is_direct and self.ends.teacher is not None and not self.ends.learned:
                self._ledger.read_out(message, kept.tape.h, self.ends.teacher)
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
        if self.rule.is_direct and not self.is_output:
            return self._message
        tape = None if part is None else self._kept[part].tape
        message = self.rule.emit(
            self._error(delta, part) if self.rule.is_direct and part is not None else delta,
            self.ends.origin[boundary],
            self.block.weights(),
            lambda stand_in: self.block.back(delta, tape, stand_in, inside=self.ends.inside is not None),
        )
        if part is not None and boundary in self._active_only:
            h_in = self._kept[part].tape.h_in
            message = torch.where(h_in == 0, 0.0, message.view(h_in.shape))
        if self._ledger is not None and part is not None and not self.rule.is_direct:
            self._ledger.sent(message, self._kept[part].tape.h_in)
        return message

    def accumulate(self, delta: Tensor, part: Part) -> None:
        """Add this micro-batch's gradient; forget its forward."""
        kept = self._kept.pop(part)
        first = not self._has_gradient
        self.block.accumulate(delta, kept.tape, first=first, stand_in=self.ends.standing_in())
        if kept.message is not None:
            self.ends.learn(kept.message, kept.tape.h, first=first)
        self._has_gradient = True
        if self._ledger is not None and kept.updates < self._updates:
            self._ledger.stale(self.parameters)

    def update(self, step: int, lr: float) -> list[Half]:
        """One optimizer step with the gradient of all micro-batches so far; returns its entries in the books."""
        self._updates += 1
        self._began.pop(step, None)
        self.ends.share_gradients()
        if self._ledger is None:
            self._descend(step, lr)
            return []
        return self._ledger.around(
            step,
            lr,
            lambda: self._descend(step, lr),
            trained=self.block.trained,
            optimizer=self.optimizer,
            learned={name: operand.master for name, operand in self.ends.learned.items()},
            feedback_optimizer=self.ends.optimizer,
        )

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
                self._ledger.renewed(part[0], before, self.ends.feedback(), learned=bool(self.ends.learned))
        if self.index == 1:
            return None
        rows = self._kept[part].tape.h_in[: self._recipe.feedback.renew.rows]
        rank = None if self.is_output else directions(self._recipe.network, self.index)
        tape = self.block.forward(rows, seed=self._seed(part), aside=True, since=self._began.get(part[0]))
        return self.block.pass_on(feedback, tape, rank)

    # -- probes ---------------------------------------------------------------------------------

    def probe_forward(self, h_in: Tensor, part: Part) -> Tensor:
        """A probe's forward of one micro-batch, at the weights before the step."""
        if part[1] == 0:
            self._true_gradients, self._active, self._reached = [], None, self._began.get(part[0])
        tape = self.block.forward(self._signal(h_in), seed=self._seed(part), aside=True, since=self._reached)
        self._probe_tapes[part[1]], self._reached = tape, tape.after
        active = (tape.h != 0).flatten(1).any(0)
        self._active = active if self._active is None else self._active | active
        h: Tensor = tape.h
        return h

    def probe_backward(self, gradient: Tensor, micro_batch: int) -> Tensor | None:
        """One micro-batch of the true backward pass.

        Args:
            gradient: dLoss/dh_l, in the shape of h_l; at the output layer the gradient of the loss itself.
            micro_batch: In order.

        Returns:
            dLoss/dh_{l-1}; None at the first layer, since nothing waits for it.
        """
        tape = self._probe_tapes.pop(micro_batch)
        delta = self.block.start(gradient, tape)
        parts = self.block.gradients(delta, tape)
        if self._true_gradients:
            parts = [so_far.add_(part) for so_far, part in zip(self._true_gradients, parts, strict=True)]
        self._true_gradients = parts
        return self.block.back(delta, tape, {}) if self.index > 1 else None

    def straight(self, delta: Tensor, part: Part) -> Tensor:
        """The rule's own delta taken back exactly, as backpropagation would do it: shape of h_{l-1}.

        Rows that are only round-off are zero, so that the layers below leave them out.
        """
        down = self.block.back(delta, self._kept[part].tape, {})
        rows = self._sound & carried(down, self._taught, self._round_off)
        return torch.where(rows.view(-1, *[1] * (down.dim() - 1)), down, 0.0)

    def compare(self, straight: Tensor) -> None:
        """Compare s_l of the last backward with what backpropagation would send: signal alignment."""
        s, straight = self._taught.flatten(1), straight.flatten(1)
        self._sound = sound(s / self._recipe.feedback.gain, straight, self._round_off)
        self._cosines.append(row_cosines(s, straight)[self._sound])

    def probed(self, step: int) -> LayerProbe:
        """This layer's alignment with the true gradient of the step, before its update."""
        cosines = torch.cat(self._cosines) if self._cosines else torch.empty(0)
        signal = cosines.mean().item() if len(cosines) else None
        active = None if self._active is None else self._active.double().mean().item()
        found = measure(step, self.index, self.parameters, self._true_gradients, signal, active)
        found = replace(found, altered=self.ends.altered())
        if self._recipe.feedback.renew.below is not None:
            self.undecided[step] = found
        return found

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
            found[f"undecided.{step}"] = probe.tally(torch.float64)
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
            self.undecided[int(name)] = LayerProbe.of_tally(tally, step=int(name), layer=self.index)

    # -- parts ----------------------------------------------------------------------------------

    def _descend(self, step: int, lr: float) -> None:
        self.optimizer.step(lr, step)
        self.block.follow()
        self.ends.descend(step, lr)
        self._has_gradient = False

    def _error(self, delta: Tensor, part: Part) -> Tensor:
        """e, from the output layer's delta; it is the same for all boundaries."""
        kept = self._kept[part]
        if kept.error is None:
            kept.error = self.block.error(delta, kept.tape)
        return kept.error

    def _seed(self, part: Part) -> int:
        return 0 if self.spec.plain else micro_batch_seed(self._recipe.seed, self.index, *part)

    def _signal(self, tensor: Tensor) -> Tensor:
        """In the dtype of signals; tokens stay what they are."""
        return tensor.to(self._signal_dtype) if tensor.is_floating_point() else tensor
