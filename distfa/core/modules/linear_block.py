"""The fast path: one Linear and its activation, on torch's kernels directly; legend in ``block``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distfa.core.base.activations import Activation
from distfa.core.base.optim import Factors
from distfa.core.modules.block import Stand


@dataclass(frozen=True, kw_only=True)
class LinearTape:
    """The tensors that the backward pass of a micro-batch needs from its forward pass; all (n, width)."""

    h_in: Tensor
    z: Tensor
    h: Tensor
    after: None = None


class LinearBlock:
    """h = phi(h_in W^T + b); delta = s * phi'(z), G = delta^T h_in, g = sum of delta over rows.

    Args:
        key: Name of the Linear in the model.
        weight: W (d_l, d_{l-1}), in the run's dtype; updated in place.
        bias: b (d_l,), or None.
        activation: phi.
        signals: Dtype of signals and products.
        fold: Whether G is kept in factors, for an update that multiplies them (``OptimizerConfig.fold``).
    """

    def __init__(
        self,
        key: str,
        weight: Tensor,
        bias: Tensor | None,
        activation: Activation,
        signals: torch.dtype,
        *,
        fold: bool = False,
    ) -> None:
        self._name, self._activation, self._signals = f"{key}.weight", activation, signals
        self.trained = {self._name: weight}
        if bias is not None:
            self.trained[f"{key}.bias"] = bias
        self.factors: Factors | None = {} if fold else None
        self._w = weight.to(signals)
        self._b = None if bias is None else bias.to(signals)

    def infer(self, h_in: Tensor, *, seed: int = 0) -> Tensor:
        return self._activation.forward(self._affine(h_in))

    def memory(self) -> None:
        return None

    def forward(self, h_in: Tensor, *, seed: int = 0, aside: bool = False, since: None = None) -> LinearTape:
        z = self._affine(h_in)
        return LinearTape(h_in=h_in, z=z, h=self._activation.forward(z))

    def start(self, s: Tensor, tape: LinearTape) -> Tensor:
        return self._activation.backward(s, tape.z, tape.h)

    def error(self, delta: Tensor, tape: LinearTape) -> Tensor:
        return delta

    def back(self, delta: Tensor, tape: LinearTape, stand_in: Stand, *, inside: bool = False) -> Tensor:
        return delta @ stand_in.get(self._name, self._w)

    def accumulate(self, delta: Tensor, tape: LinearTape, *, first: bool, stand_in: Stand | None = None) -> None:
        weight, *bias = self.trained.values()
        add_product(weight, delta, tape.h_in, first=first, factors=self.factors)
        for b in bias:
            g = delta.sum(dim=0, dtype=b.dtype)
            b.grad = g if first or b.grad is None else b.grad.add_(g)

    def gradients(self, delta: Tensor, tape: LinearTape) -> list[Tensor]:
        weight, *bias = self.trained.values()
        return [(delta.t() @ tape.h_in).to(weight.dtype), *(delta.sum(0, dtype=b.dtype) for b in bias)]

    def sample_norms(self, delta: Tensor, tape: LinearTape) -> Tensor:
        """||delta|| sqrt(||h_in||^2 + 1): a sample's gradient of W is the product of two vectors."""
        inputs = _norms(tape.h_in).square() + (1 if len(self.trained) > 1 else 0)
        return _norms(delta) * inputs.sqrt()

    def pass_on(self, feedback: Tensor | None, tape: LinearTape, rank: int | None = None) -> Tensor:
        if feedback is None:  # e is dLoss/dz
            return self._w.clone()
        return (feedback * self._activation.backward(torch.ones_like(tape.z), tape.z, tape.h).mean(0)) @ self._w

    def weights(self) -> dict[str, Tensor]:
        return {self._name: self._w}

    def follow(self) -> None:
        for copied, master in zip((self._w, self._b), self.trained.values(), strict=False):
            if copied is not None and copied is not master:
                copied.copy_(master)

    def state(self) -> dict[str, Tensor]:
        return dict(self.trained)

    def load(self, state: Mapping[str, Tensor]) -> None:
        for name, parameter in self.trained.items():
            parameter.copy_(state[name])
        self.follow()

    def _affine(self, h_in: Tensor) -> Tensor:
        return nn.functional.linear(h_in, self._w, self._b)


def _norms(rows: Tensor) -> Tensor:
    """Of every row, in float64."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return norms


def add_product(parameter: Tensor, left: Tensor, right: Tensor, *, first: bool, factors: Factors | None = None) -> None:
    """Add left^T right, both (n, width), to the parameter's ``grad``; the first one of a step sets it.

    Args:
        parameter: What the product is the gradient of.
        left: Its left factor.
        right: Its right factor.
        first: Whether it is the first one of a step.
        factors: Where both are kept instead, if they have the parameter's dtype; None: nowhere.
    """
    if factors is not None and left.dtype == parameter.dtype:
        parameter.grad = None  # one that was made for the books
        factors.setdefault(parameter, []).append((left, right))
        return
    if parameter.grad is None:
        parameter.grad = torch.empty_like(parameter)
    if left.dtype != parameter.dtype:
        product = torch.mm(left.t(), right)
        parameter.grad.copy_(product) if first else parameter.grad.add_(product)
    elif first:
        torch.mm(left.t(), right, out=parameter.grad)
    else:
        parameter.grad.addmm_(left.t(), right)
