"""The interface of a feedback rule: which error signal a layer receives, from whom, and how it reads it.

A rule is pure functions, with explicit state at each end. The *origin* of a message has the state ``at_origin``:
tensors by the name of the weight that they replace in the backward pass. The layer that learns has the state
``teacher``: one matrix. The layers hold both, renew them, and train them where the rule says so.

Shapes: delta_l as the layer's block starts its backward pass (``distfa.core.modules.block``); a message (N, *shape(l));
s_l (N, *shape of h_l). A teacher has (numbers of a message, d_l). Where a sequence has an answer at every position, it
is the same at each: (C, numbers of h_l at one position).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from distfa.core.base.draw import Purpose, initial_weight, matrix
from distfa.core.base.model import Shape
from distfa.core.base.optim import OptimizerConfig
from distfa.core.base.recipe import Recipe

Back = Callable[[Mapping[str, Tensor]], Tensor]
"""The way back through a layer from its delta, with tensors in place of weights: (N, *shape of h_{l-1})."""


class Rule(ABC):
    """One feedback rule for one run.

    Attributes:
        name: What the spec calls it; a rule of one's own needs none, and its potential must be given only for the law.
        equation: The teaching signal s_l, in theory.md's symbols.
        sends: Numbers on the wire per sample and boundary, on the way down.
        potential: The feedback potential Phi_{l+1}[i], in symbols; empty for a rule without one, for
            which there is no conservation law.
        has_law: Whether the potential has a conservation law; if not, the ledger checks only that the books balance.
        source: Where the rule comes from.
        takes_rank: Whether B can be of low rank.
        reads_labels: Whether hidden layers read the labels themselves; then nothing travels down.
        caution: What a reader of its figures must know; empty if there is nothing.
        takes_decay: Whether its feedback learns with a separate decay (``feedback.decay``).
        takes_renewal: Whether its feedback can be renewed as training goes on (``feedback.renew``).
        takes_init: Whether its feedback depends on ``init``.
        takes_clip_norm: Whether clipping by norm works: no other layer has to make the same update, without knowing the
            layer's gradient norm.
        takes_fanout: Whether all messages at full rank are the same, so that layers can pass them on (``fanout``).
        is_direct: Whether B_l leads straight from the output to layer l.
        stands_in: Whether feedback stands in place of the weights in the backward pass through a layer.
        redraws: Whether feedback is drawn anew in each step.
        follows_shortcuts: Whether errors go down the shortcuts of a residual network, and begin as dLoss/dh_{L-1}.
        takes_privacy: Whether it can train privately: a sample's error depends on that sample and the weights only, and
            nothing but the layers' own parameters learns from samples. A rule says so itself: it is not inherited.
    """

    name: ClassVar[str] = ""
    equation: ClassVar[str] = ""
    sends: ClassVar[str] = ""
    potential: ClassVar[str] = ""
    has_law: ClassVar[bool] = True
    source: ClassVar[str] = ""
    caution: ClassVar[str] = ""
    takes_rank: ClassVar[bool] = False
    takes_decay: ClassVar[bool] = False
    takes_renewal: ClassVar[bool] = False
    takes_init: ClassVar[bool] = True
    takes_clip_norm: ClassVar[bool] = True
    takes_fanout: ClassVar[bool] = False
    reads_labels: ClassVar[bool] = False
    is_direct: ClassVar[bool] = False
    stands_in: ClassVar[bool] = False
    redraws: ClassVar[bool] = False
    follows_shortcuts: ClassVar[bool] = False
    takes_privacy: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        cls.takes_privacy = vars(cls).get("takes_privacy", False)

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.network = recipe.network

    def condition(self) -> tuple[str, str] | None:
        """(what in this recipe makes the rule fail, what to do instead); None if nothing is known to."""
        return None

    # -- routes ---------------------------------------------------------------------------------

    @abstractmethod
    def origin(self, boundary: int) -> int | None:
        """The layer that sends the error signal across ``boundary`` to the layer below it; None if none does."""

    @abstractmethod
    def shape(self, boundary: int) -> Shape:
        """Shape of one sample's message to layer ``boundary``: what the rule costs on the wire."""

    def width(self, boundary: int) -> int:
        """Numbers in one sample's message to layer ``boundary``."""
        return math.prod(self.shape(boundary)) if self.origin(boundary) is not None else 0

    @property
    def is_straight(self) -> bool:
        """Whether no error goes through other layers on its way down."""
        return False

    @cached_property
    def sent_by(self) -> dict[int, list[int]]:
        """For every origin the boundaries it sends errors across, from the lowest up: the order in which it sends."""
        found: dict[int, list[int]] = {}
        for boundary in self.network.boundaries:
            if (origin := self.origin(boundary)) is not None:
                found.setdefault(origin, []).append(boundary)
        return found

    @property
    def sending_order(self) -> list[int]:
        """The boundaries in the order in which their errors are sent, from the top origin down."""
        return [boundary for origin in sorted(self.sent_by, reverse=True) for boundary in self.sent_by[origin]]

    @property
    def sends_the_same(self) -> bool:
        """Whether an origin's messages are the same for all layers that it sends them to."""
        return self.takes_fanout and self.recipe.feedback.rank is None

    def delay(self, layer: int) -> int:
        """Micro-batches until an error is back at ``layer`` in a pipe without gaps; by default one per layer above."""
        return len(self.network) - layer

    def renews(self, step: int) -> bool:
        """Whether it is certain from the start that feedback is renewed at ``step``, by rows sent down the layers."""
        return False

    @property
    def heeds_probes(self) -> bool:
        """Whether feedback is renewed after a probe that calls for it."""
        return self.recipe.feedback.renew.below is not None

    def calls_for_renewal(self, cosine: float) -> bool:
        """Whether a probe does, by the global gradient alignment that it saw."""
        below = self.recipe.feedback.renew.below
        return below is not None and cosine < below

    def may_renew(self, step: int) -> bool:
        """Whether feedback may be renewed at ``step``."""
        return self.heeds_probes or self.renews(step)

    @property
    def ever_renews(self) -> bool:
        """Whether there may be a step in which feedback is renewed."""
        return False

    # -- the origin's end -----------------------------------------------------------------------

    def origin_state(self, boundary: int, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """State of the origin as it starts; boundary 0 is the input's, for feedback inside layer 1.

        Args:
            boundary: Between layers ``boundary`` and ``boundary + 1``.
            weights: The initial weights of the origin's Linears and Convs, by name.
        """
        return {}

    def refresh(self, boundary: int, step: int, weights: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """New state for the origin at the start of a step; None to keep what it has."""
        return None

    def stand_in(self, state: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The tensors that replace the weights in the backward pass; empty to use the weights themselves.

        Args:
            state: The state of the origin.
            weights: The current weights, by name, in the dtype of ``state``.
        """
        return state

    @abstractmethod
    def emit(self, delta: Tensor, state: Mapping[str, Tensor], weights: Mapping[str, Tensor], back: Back) -> Tensor:
        """The message, from the origin's delta and state; ``back`` goes back through the origin's layer."""

    # -- the learner's end ----------------------------------------------------------------------

    def teacher(self, boundary: int) -> Tensor | None:
        """Matrix of the layer that learns, from the seed, float64; None where the message is s_l itself."""
        return None

    def teacher_from_rows(self, feedback: Tensor) -> Tensor:
        """The teacher made from the rows of a renewal: mean dlogits/dh_l, (C, numbers of h_l at a position)."""
        return feedback

    def carries_teaching(self, boundary: int) -> bool:
        """Whether a message is s_l itself, number by number of h_l."""
        return not self.is_direct and not self.reads_labels and self.teacher(boundary) is None

    def teach(self, message: Tensor, teacher: Tensor | None) -> Tensor:
        """The teaching signal s_l, from the message and the teacher."""
        return message if teacher is None else message @ teacher

    def learns_at_origin(self, boundary: int) -> bool:
        """Whether the origin's state takes the update that its weights take."""
        return False

    def learns_at_learner(self, boundary: int) -> bool:
        """Whether the teacher takes an update at every step, along message^T h_l."""
        return False

    def feedback_optimizer(self) -> OptimizerConfig:
        """The optimizer of feedback that learns; by default that of the weights."""
        return self.recipe.optimizer

    # -- the law --------------------------------------------------------------------------------

    def potential_layer(self, boundary: int) -> int:
        """The layer that keeps the potential of a boundary: the learner, or the layer above if W is in it."""
        return boundary + 1

    def fixed_feedback(self, boundary: int, weight: str, state: Mapping[str, Tensor]) -> Tensor | None:
        """The matrix that ``field`` needs besides a weight of layer ``boundary + 1``, in its shape; None: only W."""
        return state.get(weight)

    def field(self, weight: Tensor, fixed_feedback: Tensor | None) -> Tensor:
        """The matrix in place of W_{l+1} on the way down, in its shape: the gradient of the potential.

        Args:
            weight: W_{l+1}, as a matrix of its rows.
            fixed_feedback: The origin's state for it, in the same form.
        """
        return weight if fixed_feedback is None else fixed_feedback

    def phi(self, weight: Tensor, fixed_feedback: Tensor | None) -> Tensor:
        """The potential Phi_{l+1}, one number per column of W_{l+1}."""
        return (self.field(weight, fixed_feedback) * weight).sum(0)


class HopRule(Rule):
    """A rule whose error goes from layer to layer, through feedback in the shape of each weight."""

    stands_in = True

    def origin(self, boundary: int) -> int | None:
        """The layer above."""
        return boundary + 1

    def shape(self, boundary: int) -> Shape:
        """That of h_l: the owner of W goes back through its layer."""
        return self.network.shapes[boundary]

    def emit(self, delta: Tensor, state: Mapping[str, Tensor], weights: Mapping[str, Tensor], back: Back) -> Tensor:
        """The input's vector-Jacobian product with feedback in place of the weights."""
        return back(self.stand_in(state, weights))

    def hop_feedback(self, boundary: int) -> Tensor:
        """B in the shape of W_{boundary+1} of a seeded network: W(0) itself if aligned, else a draw like it."""
        purpose = Purpose.WEIGHT if self.recipe.init == "aligned" else Purpose.FEEDBACK
        return initial_weight(self.recipe, boundary + 1, purpose).mul_(self.recipe.feedback.gain)

    def feedback_for_weights(self, boundary: int, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """B for every weight of layer ``boundary + 1``: W(0) itself if aligned, else a draw with the scale of W(0)."""
        if self.network.seeded:
            return {name: self.hop_feedback(boundary) for name in weights}
        if self.recipe.init == "aligned":
            return {name: weight.double() * self.recipe.feedback.gain for name, weight in weights.items()}
        return {
            name: self._like(weight, boundary + 1, number).mul_(self.recipe.feedback.gain)
            for number, (name, weight) in enumerate(weights.items())
        }

    def _like(self, weight: Tensor, layer: int, number: int) -> Tensor:
        """A draw in the shape and the mean square of a weight."""
        drawn = matrix(
            len(weight),
            weight[0].numel(),
            seed=self.recipe.seed,
            purpose=Purpose.FEEDBACK,
            index=layer,
            part=number,
            distribution=self.recipe.distribution,
        ).view(weight.shape)
        scale = weight.double().square().mean().sqrt().item() / drawn.square().mean().sqrt().item()
        return drawn.to(weight.device).mul_(scale)


class DirectRule(Rule):
    """A rule whose feedback leads straight from the output to every layer: B_l, (C, numbers of h_l)."""

    is_direct = True

    def origin(self, boundary: int) -> int | None:
        """The output layer L."""
        return len(self.network)

    def shape(self, boundary: int) -> Shape:
        """The output's."""
        return self.network.shapes[-1]

    def emit(self, delta: Tensor, state: Mapping[str, Tensor], weights: Mapping[str, Tensor], back: Back) -> Tensor:
        """e."""
        return delta

    def teacher(self, boundary: int) -> Tensor | None:
        """B_l, shape (C, d_l)."""
        return self.direct_feedback(boundary)

    def renews(self, step: int) -> bool:
        """At the first step, if feedback is aligned with weights that no seed can draw; then at fixed intervals."""
        if step == 0:
            return self.recipe.init == "aligned" and not self.network.seeded
        every = self.recipe.feedback.renew.every
        return every is not None and step % every == 0

    @property
    def ever_renews(self) -> bool:
        """At the start, at fixed intervals, or by what probes see."""
        return self.renews(0) or self.recipe.feedback.renew.on

    def teacher_from_rows(self, feedback: Tensor) -> Tensor:
        """The rows, times the gain."""
        return feedback * self.recipe.feedback.gain

    def teach(self, message: Tensor, teacher: Tensor | None) -> Tensor:
        """message B_l; with an answer at every position, position by position."""
        if teacher is None:
            raise ValueError("a direct rule teaches by a matrix")
        return message @ teacher

    def potential_layer(self, boundary: int) -> int:
        """Layer l, with its shadow readout; for the last hidden layer the output layer: its W moves alike."""
        last = len(self.network)
        tied = boundary == last - 1 and self.network[last].plain and not self.ever_renews
        return last if tied else boundary

    def direct_feedback(self, boundary: int) -> Tensor:
        """B in the shape (C, numbers of h_l at a position), from the output straight to layer ``boundary``.

        Aligned, in a seeded network: the product of the initial weights above layer l, each hidden one times its mean
        slope, so that e B_l is the backpropagated signal at step 0 with phi' replaced by its mean (theory.md, aligned
        initialisation). Aligned, in any other network: zero until it is renewed at step 0. Random: a draw whose columns
        have a mean square norm of 1.
        """
        recipe, network, last = self.recipe, self.network, len(self.network)
        columns = math.prod(network.shapes[boundary][len(network.positions) :])
        if recipe.init != "aligned":
            drawn = matrix(
                columns,
                network.outputs,
                seed=recipe.seed,
                purpose=Purpose.FEEDBACK,
                index=boundary,
                distribution=recipe.distribution,
            )
            return drawn.t().contiguous().mul_(recipe.feedback.gain)
        if not network.seeded:
            return torch.zeros(network.outputs, columns, dtype=torch.float64)
        product = initial_weight(recipe, last)
        for above in range(last - 1, boundary, -1):
            product = product @ initial_weight(recipe, above).mul_(network[above].activation.mean_slope)
        return product.mul_(recipe.feedback.gain)


def factors(recipe: Recipe, boundary: int, full: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(sender's, receiver's) factors of B, (rows, r) and (r, columns): B projected on r drawn directions.

    The directions are drawn, on the narrower side of B, so both ends hold the same ones by construction. For an
    orthogonal B, whose singular values are all equal, no other factors of this rank are closer to it.
    """
    rows, columns = full.shape
    drawn = matrix(
        rank,
        min(rows, columns),
        seed=recipe.seed,
        purpose=Purpose.DIRECTIONS,
        index=boundary,
        distribution="orthogonal",
    )
    if rows <= columns:
        return drawn.t().contiguous(), drawn @ full
    return full @ drawn.t(), drawn
