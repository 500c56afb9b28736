"""The optimizers, with torch's own kernels: one per layer, because a layer's update is local."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from distfa.core.memory import laid_like

Name = Literal["sgd", "adam", "adamw"]
Schedule = Literal["constant", "linear", "cosine"]
NAMES: tuple[str, ...] = get_args(Name)
_Beta = Annotated[float, Ge(0), Lt(1)]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer every layer runs for itself; names and meanings are torch.optim's.

    Attributes:
        name: ``sgd``, ``adam`` or ``adamw``.
        lr: Learning rate; under a schedule its highest value.
        momentum: SGD only.
        nesterov: SGD only.
        betas: Adam and AdamW only.
        eps: Adam and AdamW only.
        weight_decay: L2 penalty (decoupled for AdamW).
        schedule: How the rate goes from ``lr`` to ``final_lr`` over the run: ``constant`` (it stays), ``linear``
            or ``cosine`` (Loshchilov & Hutter, ICLR 2017).
        final_lr: The last rate as a share of ``lr``; ``linear`` and ``cosine`` only.
        warmup_steps: Steps over which the rate grows linearly to ``lr``.
        rates: (step, rate) pairs in order, in place of a schedule: each rate holds from its step on; torch's schedulers
            are turned into these; None: by ``schedule``.
        clip_norm: Scale a layer's gradient down to this norm if its norm is larger; each layer does this for itself,
            since it does not know the gradients of the others; None: never.
        clip_value: Clamp every number of a gradient to -clip_value .. clip_value; None: never.

    Raises:
        ValueError: ``nesterov`` without ``momentum``, both ways to clip, or rates that do not begin at step 0.
    """

    name: Name = "adam"
    lr: Annotated[float, Gt(0)] = 1e-3
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.0
    nesterov: bool = False
    betas: tuple[_Beta, _Beta] = (0.9, 0.999)
    eps: Annotated[float, Gt(0)] = 1e-8
    weight_decay: Annotated[float, Ge(0)] = 0.0
    schedule: Schedule = "constant"
    final_lr: Annotated[float, Ge(0), Le(1)] = 0.0
    warmup_steps: Annotated[int, Ge(0)] = 0
    rates: tuple[tuple[Annotated[int, Ge(0)], Annotated[float, Ge(0)]], ...] | None = None
    clip_norm: Annotated[float, Gt(0)] | None = None
    clip_value: Annotated[float, Gt(0)] | None = None

    def __post_init__(self) -> None:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum above 0")
        if self.clip_norm is not None and self.clip_value is not None:
            raise ValueError("a gradient is clipped by clip_norm or by clip_value, not by both; leave one out")
        if self.rates is not None:
            starts = [step for step, _ in self.rates]
            if not starts or starts[0] != 0 or starts != sorted(set(starts)):
                raise ValueError("rates are (step, rate) pairs whose steps begin at 0 and rise")
            if self.schedule != "constant" or self.warmup_steps:
                raise ValueError("rates stand in place of schedule and warmup_steps; leave those out")


def rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """The learning rate of ``step`` of a run of ``steps``, counted from 0."""
    if config.rates is not None:
        return config.rates[bisect_right(config.rates, step, key=lambda pair: pair[0]) - 1][1]
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    gone = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    left = 1 - gone if config.schedule == "linear" else (1 + math.cos(math.pi * gone)) / 2
    return config.lr * (config.final_lr + (1 - config.final_lr) * left)


def expected_update(config: OptimizerConfig, parameter: Tensor, gradient: Tensor, state: Mapping[str, Any]) -> Tensor:
    """The update the optimizer ought to make, from its textbook formula, in float64.

    The ledger computes it independently: an update that was made twice, or with other numbers, differs from it.

    Args:
        config: Which optimizer.
        parameter: The parameter before the update, float64.
        gradient: Its gradient: the same shape, float64.
        state: torch.optim's state of the parameter before the update; empty before the first.

    Source: Kingma & Ba 2015; Loshchilov & Hutter 2019; torch.optim for momentum's first step.
    """
    if config.name == "sgd":
        g = gradient + config.weight_decay * parameter
        if config.momentum:
            before = state.get("momentum_buffer")
            buffer = g if before is None else config.momentum * before.double() + g
            g = g + config.momentum * buffer if config.nesterov else buffer
        return -config.lr * g
    decoupled = config.name == "adamw"
    g = gradient if decoupled or not config.weight_decay else gradient + config.weight_decay * parameter
    beta1, beta2 = config.betas
    step = float(state.get("step", 0.0)) + 1
    first = (state["exp_avg"].double() * beta1 if state else torch.zeros_like(g)).add_(g, alpha=1 - beta1)
    second = state["exp_avg_sq"].double() * beta2 if state else torch.zeros_like(g)
    denominator = second.addcmul_(g, g, value=1 - beta2).div_(1 - beta2**step).sqrt_().add_(config.eps)
    update: Tensor = first.div_(denominator).mul_(-config.lr / (1 - beta1**step))
    return update.sub_(parameter, alpha=config.lr * config.weight_decay) if decoupled else update


class Optimizer:
    """torch's kernels over one layer's parameters, called as functions: fused, one pass over memory per step.

    On a GPU they are not fused: the fused Adam there rounds beta2 before it computes 1 - beta2, which makes a relative
    error of 1e-5 in updates, and the books would show it.

    The classes of ``torch.optim`` do the same arithmetic, but to create one loads torch's compiler: one second and 65
    MiB in the process of every layer.

    Args:
        config: Which optimizer; its ``lr`` is not used, since schedules change it.
        parameters: Updated in place, with their ``grad``.

    Attributes:
        state: For every parameter what torch.optim keeps, by torch's names; empty before the first step.
        scale: What clip_norm multiplied the last gradient by.
    """

    def __init__(self, config: OptimizerConfig, parameters: Sequence[Tensor]) -> None:
        self._config = config
        self._parameters = list(parameters)
        fused = all(parameter.device.type == "cpu" for parameter in self._parameters)
        self._kernels: dict[str, Any] = {"fused": fused, "foreach": not fused}
        self.state: dict[Tensor, dict[str, Tensor]] = {parameter: {} for parameter in self._parameters}
        self.scale = 1.0

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Update every parameter; each must have a gradient."""
        if not self._parameters:
            return
        given = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        gradients = [laid_like(g, p) for g, p in zip(self._clipped(given), self._parameters, strict=True)]
        if self._config.name == "sgd":
            self._sgd(gradients, lr)
        else:
            self._adam(gradients, lr)

    def take(self, parameter: Tensor, kept: Mapping[str, Tensor]) -> None:
        """Set what is kept for a parameter, as ``state`` gave it."""
        self.state[parameter] = {name: v if name == "step" else laid_like(v, parameter) for name, v in kept.items()}

    def clipped(self, gradient: Tensor) -> Tensor:
        """A part of a gradient as the last step used it: scaled by the layer's factor, or clamped number by number."""
        if (most := self._config.clip_value) is not None:
            return gradient.clamp(-most, most)
        return gradient if self.scale == 1.0 else gradient * self.scale

    def _clipped(self, gradients: list[Tensor]) -> list[Tensor]:
        """The gradients that the update uses; ``grad`` is not changed, so that the books see what the signals made."""
        if (most := self._config.clip_norm) is not None:
            norm = float(torch.nn.utils.get_total_norm(gradients))
            self.scale = min(1.0, most / (norm + 1e-6)) if math.isfinite(norm) else 1.0  # as torch's clip_grad_norm_
        return [self.clipped(gradient) for gradient in gradients]

    def _sgd(self, gradients: list[Tensor], lr: float) -> None:
        c, states = self._config, list(self.state.values())
        buffers = [state.get("momentum_buffer") for state in states]
        sgd(
            self._parameters,
            gradients,
            buffers,
            **self._kernels,
            weight_decay=c.weight_decay,
            momentum=c.momentum,
            lr=lr,
            dampening=0.0,
            nesterov=c.nesterov,
            maximize=False,
        )
        for state, buffer in zip(states, buffers, strict=True):
            if buffer is not None:
                state["momentum_buffer"] = buffer

    def _adam(self, gradients: list[Tensor], lr: float) -> None:
        c = self._config
        for parameter, state in self.state.items():
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        states = self.state.values()
        adam(
            self._parameters,
            gradients,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            **self._kernels,
            decoupled_weight_decay=c.name == "adamw",
            amsgrad=False,
            beta1=c.betas[0],
            beta2=c.betas[1],
            lr=lr,
            weight_decay=c.weight_decay,
            eps=c.eps,
            maximize=False,
        )
