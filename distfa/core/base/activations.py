"""Activations: h = phi(z), and delta = s * phi'(z), with the kernels autograd itself uses.

Calling the same ATen backward kernels as autograd keeps ``bp`` equal to plain torch to round-off.

Shapes: z, h, s, delta are all (N, d_l).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_aten = torch.ops.aten

Forward = Callable[[Tensor, float], Tensor]
Backward = Callable[[Tensor, Tensor, Tensor, float], Tensor]


@dataclass(frozen=True, kw_only=True)
class _Kernel:
    """How one activation is computed; ``slope`` is the parameter of leaky ReLU, unused elsewhere."""

    forward: Forward
    backward: Backward  # (s, z, h, slope) -> s * phi'(z)
    gain: Callable[[float], float]  # std of W(0) is gain / sqrt(fan_in)
    mean_slope: Callable[[float], float]  # E[phi'(z)] for z ~ N(0, 1): theory.md's g
    homogeneous: bool  # phi'(z) z == phi(z): the conservation law needs it


_KERNELS: dict[str, _Kernel] = {
    "identity": _Kernel(
        forward=lambda z, _: z,
        backward=lambda s, z, h, _: s,
        gain=lambda _: 1.0,
        mean_slope=lambda _: 1.0,
        homogeneous=True,
    ),
    "relu": _Kernel(
        forward=lambda z, _: torch.relu(z),
        backward=lambda s, z, h, _: _aten.threshold_backward(s, h, 0),
        gain=lambda _: math.sqrt(2.0),
        mean_slope=lambda _: 0.5,
        homogeneous=True,
    ),
    "leaky_relu": _Kernel(
        forward=lambda z, slope: nn.functional.leaky_relu(z, slope),
        backward=lambda s, z, h, slope: _aten.leaky_relu_backward(s, z, slope, False),
        gain=lambda slope: math.sqrt(2.0 / (1.0 + slope**2)),
        mean_slope=lambda slope: (1.0 + slope) / 2.0,
        homogeneous=True,
    ),
    "tanh": _Kernel(
        forward=lambda z, _: torch.tanh(z),
        backward=lambda s, z, h, _: _aten.tanh_backward(s, h),
        gain=lambda _: 5.0 / 3.0,
        mean_slope=lambda _: 0.605706,
        homogeneous=False,
    ),
    "gelu": _Kernel(
        forward=lambda z, _: nn.functional.gelu(z),
        backward=lambda s, z, h, _: _aten.gelu_backward(s, z, approximate="none"),
        gain=lambda _: math.sqrt(2.0),
        mean_slope=lambda _: 0.5,
        homogeneous=False,
    ),
}

NAMES: tuple[str, ...] = tuple(_KERNELS)


@dataclass(frozen=True, kw_only=True)
class Activation:
    """The elementwise function phi after a layer's weights.

    Attributes:
        name: One of ``NAMES``.
        slope: Slope below zero; leaky ReLU only.
    """

    name: str = "identity"
    slope: float = 0.0

    @property
    def _kernel(self) -> _Kernel:
        return _KERNELS[self.name]

    def forward(self, z: Tensor) -> Tensor:
        """h = phi(z), shape (N, d_l); identity returns ``z`` itself."""
        return self._kernel.forward(z, self.slope)

    def backward(self, s: Tensor, z: Tensor, h: Tensor) -> Tensor:
        """delta = s * phi'(z), all of shape (N, d_l)."""
        return self._kernel.backward(s, z, h, self.slope)

    @property
    def gain(self) -> float:
        """Standard deviation of W(0) times sqrt(fan_in) (He et al. 2015, for ReLU)."""
        return self._kernel.gain(self.slope)

    @property
    def mean_slope(self) -> float:
        """E[phi'(z)] for z ~ N(0, 1): how much of a signal the activation passes at the start."""
        return self._kernel.mean_slope(self.slope)

    @property
    def homogeneous(self) -> bool:
        """Whether phi'(z) z == phi(z) for every z."""
        return self._kernel.homogeneous

    def module(self) -> nn.Module:
        """The ordinary torch module that computes this activation."""
        if self.name == "leaky_relu":
            return nn.LeakyReLU(self.slope)
        modules: dict[str, Callable[[], nn.Module]] = {
            "identity": nn.Identity,
            "relu": nn.ReLU,
            "tanh": nn.Tanh,
            "gelu": nn.GELU,
        }
        return modules[self.name]()


def from_module(module: nn.Module) -> Activation | None:
    """The activation that a torch module computes; None if the fast path does not know it.

    Only the exact class counts: a subclass may compute something else.
    """
    match module:
        case nn.ReLU() if type(module) is nn.ReLU:
            return Activation(name="relu")
        case nn.LeakyReLU() if type(module) is nn.LeakyReLU:
            return Activation(name="leaky_relu", slope=float(module.negative_slope))
        case nn.Tanh() if type(module) is nn.Tanh:
            return Activation(name="tanh")
        case nn.GELU(approximate="none") if type(module) is nn.GELU:
            return Activation(name="gelu")
        case nn.Identity() if type(module) is nn.Identity:
            return Activation()
    return None
