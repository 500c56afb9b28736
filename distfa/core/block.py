"""What a layer computes inside: forward, the way back, its own gradient; exact whatever its modules are.

Two blocks do the same. ``LinearBlock`` runs one Linear and its activation on torch's kernels directly, the fast
path; ``ModuleBlock`` runs any modules under autograd, with feedback in place of weights by ``Swap``.

Legend, for a micro-batch of n rows: h_in (n, *shape of h_{l-1}), h, s (n, *shape of h_l). ``delta`` is where the
block starts its way back from: dLoss/dz (n, d_l) in a LinearBlock, dLoss/dh itself in a ModuleBlock. A stand-in is
a tensor in the shape of a weight, by the weight's name.

Parameters are kept in the run's dtype, with the rule's G as their ``grad``. In a mixed run signals and products are
bfloat16, and so are the copies of parameters that they meet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

Stand = Mapping[str, Tensor]


class Block(Protocol):
    """The inside of a layer.

    Attributes:
        trained: Its trained parameters, by the model's names.
    """

    trained: dict[str, Tensor]

    def infer(self, h_in: Tensor) -> Tensor:
        """h in evaluation, keeping nothing."""
        ...

    def forward(self, h_in: Tensor, *, seed: int = 0, aside: bool = False) -> Any:
        """A tape of one micro-batch; its ``h_in`` and ``h`` are the layer's input and output.

        Args:
            h_in: In the dtype of signals, or integer tokens.
            seed: Of dropout.
            aside: Whether running statistics stay as they are.
        """
        ...

    def start(self, s: Tensor, tape: Any) -> Tensor:
        """delta, from the teaching signal s (or, at the output layer, dLoss/dh)."""
        ...

    def back(self, delta: Tensor, tape: Any, stand_in: Stand, *, inside: bool = False) -> Tensor:
        """The input's vector-Jacobian product, shape of h_in, with ``stand_in`` in place of those weights.

        Args:
            delta: As ``start`` gives it.
            tape: Of the forward.
            stand_in: Empty for the weights themselves.
            inside: Whether the layer's own gradient goes back through the stand-ins, too.
        """
        ...

    def accumulate(self, delta: Tensor, tape: Any, *, first: bool, stand_in: Stand | None = None) -> None:
        """Add the micro-batch's gradient to the parameters' ``grad``, or begin it with the step's first."""
        ...

    def gradients(self, delta: Tensor, tape: Any) -> list[Tensor]:
        """The micro-batch's gradient of every trained parameter, exact, in the run's dtype."""
        ...

    def pass_on(self, feedback: Tensor, tape: Any) -> Tensor:
        """Rows of direct feedback of the layer below: the mean over samples of the way back of these rows.

        Args:
            feedback: (C, numbers of h_l at one position).
            tape: Of some samples.
        """
        ...

    def weights(self) -> dict[str, Tensor]:
        """Its Linears' and Convs' weights as products take them, by name."""
        ...

    def follow(self) -> None:
        """Take over an update of the trained parameters."""
        ...

    def state(self) -> dict[str, Tensor]:
        """All parameters and buffers under the model's own keys."""
        ...

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what ``state`` gave."""
        ...
