"""The computation inside a layer: forward, backward, its own gradient. All of it is exact, whatever its modules are.

There are two kinds. ``LinearBlock`` runs one Linear and its activation on torch's kernels directly, the fast
path; ``ModuleBlock`` runs any modules under autograd, with feedback in place of weights by ``Swap``.

Legend, for a micro-batch of n rows: h_in (n, *shape of h_{l-1}), h, s (n, *shape of h_l). ``delta`` is what the block's
backward pass starts from: dLoss/dz (n, d_l) in a LinearBlock, dLoss/dh itself in a ModuleBlock. A stand-in is a tensor
of a weight's shape that takes the weight's place; stand-ins are kept by the weight's name.

Parameters are kept in the run's dtype, with the rule's G as their ``grad``. In a mixed run signals and products are
bfloat16, and products take bfloat16 copies of the parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from distfa.core.base.optim import Factors

Stand = Mapping[str, Tensor]


class Block(Protocol):
    """The inside of a layer.

    Attributes:
        trained: Its trained parameters, by their names in the model.
        factors: Gradients of some of them that are kept in factors, until the update; None if none ever are.
    """

    trained: dict[str, Tensor]
    factors: Factors | None

    def infer(self, h_in: Tensor, *, seed: int = 0) -> Tensor:
        """h in evaluation; nothing is kept for a backward pass, and nothing in the layer changes.

        Args:
            h_in: In the dtype of signals, or integer tokens.
            seed: Seed of what modules draw even in evaluation.
        """

    def memory(self) -> Any:
        """The layer's current state besides its parameters; a later forward pass may start from it."""

    def forward(self, h_in: Tensor, *, seed: int = 0, aside: bool = False, since: Any = None) -> Any:
        """The tape of one micro-batch's forward; its ``h_in`` and ``h`` are the layer's input and output.

        Args:
            h_in: In the dtype of signals, or integer tokens.
            seed: Seed of what modules draw (dropout).
            aside: Whether this is outside training, so that all state stays as it is.
            since: What ``memory`` gave, to begin with; the tape's ``after`` is then what the forward left. For
                forwards aside.
        """

    def start(self, s: Tensor, tape: Any) -> Tensor:
        """delta, from the teaching signal s (or, at the output layer, dLoss/dh)."""

    def error(self, delta: Tensor, tape: Any) -> Tensor:
        """e of an output layer, in the shape of h: what direct rules send (``distfa.core.modules.elementwise``)."""

    def back(self, delta: Tensor, tape: Any, stand_in: Stand, *, inside: bool = False) -> Tensor:
        """The input's vector-Jacobian product, shape of h_in, with ``stand_in`` in place of those weights.

        Args:
            delta: As ``start`` gives it.
            tape: The tape of that micro-batch's forward.
            stand_in: Stand-ins by the weight's name; empty to use the weights themselves.
            inside: Whether the layer's own gradient also goes back through the stand-ins.
        """

    def accumulate(self, delta: Tensor, tape: Any, *, first: bool, stand_in: Stand | None = None) -> None:
        """Add the micro-batch's gradient to the parameters' ``grad``, or its factors to ``factors``.

        The first one of a step sets the ``grad``.

        A parameter that no forward of the step used has None there, as in torch.
        """

    def gradients(self, delta: Tensor, tape: Any) -> list[Tensor]:
        """The micro-batch's gradient of every trained parameter, exact, in the run's dtype."""

    def sample_norms(self, delta: Tensor, tape: Any) -> Tensor:
        """The norm of each sample's own gradient of all trained parameters together, exact: (n,), float64.

        Only of a block whose gradient goes back through its own weights, and whose samples do not mix.
        """

    def pass_on(self, feedback: Tensor | None, tape: Any, rank: int | None = None) -> Tensor:
        """Rows of direct feedback for the layer below: these rows taken back through the layer, as a mean over samples.

        Args:
            feedback: (C, numbers of h_l at one position); None for the identity, with which the output layer
                begins where its error does.
            tape: The tape of the samples to take the mean over.
            rank: How many directions span the rows, where they are many (``distfa.core.modules.rows``).
        """

    def weights(self) -> dict[str, Tensor]:
        """The weights of its Linears and Convs in the dtype of products, by name."""

    def follow(self) -> None:
        """Copy an update of the trained parameters to whatever is made of them."""

    def state(self) -> dict[str, Tensor]:
        """All parameters and buffers under the model's own keys, and what else has changed (``core.attributes``)."""

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Set the parameters and buffers to what ``state`` gave."""
