"""The optimizers, with torch's own kernels: one per layer, because a layer's update is local."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, get_args

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from distfa.core.base.memory import lay_out_like
from distfa.errors import SpecError
from distfa.own.parts import Parts

Name = Literal["sgd", "adam", "adamw"]
Shape = Callable[[int, int], float]
"""A schedule of learning rates: the rate of a step, counted from 0, of so many, as a share of ``lr``."""
NAMES: tuple[str, ...] = get_args(Name)
_CLIPS = ("clip_norm", "clip_value")
_Beta = Annotated[float, Ge(0), Lt(1)]
Rates = tuple[tuple[Annotated[int, Ge(0)], Annotated[float, Ge(0)]], ...]
"""(step, value) pairs in order: each value holds from its step on."""
Movable = Literal["momentum", "dampening", "beta1", "beta2", "eps", "weight_decay"]
MOVABLE: tuple[str, ...] = get_args(Movable)
Factors = dict[Tensor, list[tuple[Tensor, Tensor]]]
"""Gradients as sums of products: by parameter the factors (left, right) of left^T right."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Parameters with settings of their own; what is None is as in the whole optimizer.

    Attributes:
        parameters: Their keys in the model.
        rates: As in the whole optimizer, and so is all that follows.
    """

    parameters: tuple[str, ...]
    lr: Annotated[float, Ge(0)] | None = None
    momentum: Annotated[float, Ge(0)] | None = None
    dampening: float | None = None
    nesterov: bool | None = None
    betas: tuple[_Beta, _Beta] | None = None
    eps: Annotated[float, Ge(0)] | None = None
    weight_decay: Annotated[float, Ge(0)] | None = None
    amsgrad: bool | None = None
    maximize: bool | None = None
    rates: Rates | None = None
    moves: Mapping[Movable, Rates] | None = field(default=None, hash=False)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer that every layer runs on its own; names and meanings are torch.optim's.

    Attributes:
        name: ``sgd``, ``adam`` or ``adamw``.
        lr: Learning rate; under a schedule, its highest value.
        momentum: SGD only.
        dampening: SGD only.
        nesterov: SGD only.
        betas: Adam and AdamW only.
        eps: Adam and AdamW only.
        weight_decay: L2 penalty (decoupled for AdamW).
        amsgrad: Adam and AdamW only.
        maximize: Go up the gradient instead of down.
        schedule: How the rate goes from ``lr`` to ``final_lr`` over the run: ``constant`` (no change), ``linear`` or
            ``cosine`` (Loshchilov & Hutter, ICLR 2017); yours, package.module:name, is a function of (step, steps).
        final_lr: The last rate as a share of ``lr``; ``linear`` and ``cosine`` only.
        warmup_steps: Steps over which the rate grows linearly to ``lr``.
        rates: (step, rate) pairs in order, instead of a schedule: each rate applies from its step on; torch's
            schedulers are converted to these; None: use ``schedule``.
        moves: (step, value) pairs of other settings that a torch scheduler changes, by name; ``beta1`` and ``beta2``
            for the two betas.
        groups: Parameters with their own settings, by their keys in the model; parameters in no group are then not
            trained. None: one group with all parameters.
        clip_norm: Scale a layer's gradient down to this norm if its norm is larger; each layer does this on its own,
            since it does not know the other layers' gradients; None: never.
        clip_value: Clamp every number of a gradient to -clip_value .. clip_value; None: never.
        fold: SGD only, without momentum, decay, clipping and groups: the product that is the gradient of a layer's
            single Linear is added straight to the weight, unless signals are bfloat16; faster, and rounded differently.

    Raises:
        ValueError: ``nesterov`` without ``momentum``, both ways to clip, rates that do not begin at step 0, a parameter
            in two groups, or ``fold`` with anything but plain SGD.
    """

    name: Name = "adam"
    lr: Annotated[float, Gt(0)] = 1e-3
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    betas: tuple[_Beta, _Beta] = (0.9, 0.999)
    eps: Annotated[float, Gt(0)] = 1e-8
    weight_decay: Annotated[float, Ge(0)] = 0.0
    amsgrad: bool = False
    maximize: bool = False
    schedule: str = "constant"
    final_lr: Annotated[float, Ge(0), Le(1)] = 0.0
    warmup_steps: Annotated[int, Ge(0)] = 0
    rates: Rates | None = None
    moves: Mapping[Movable, Rates] = field(default_factory=dict, hash=False)  # so that a recipe can be a key
    groups: tuple[Group, ...] | None = None
    clip_norm: Annotated[float, Gt(0)] | None = None
    clip_value: Annotated[float, Gt(0)] | None = None
    fold: bool = False

    def __post_init__(self) -> None:
        try:
            SCHEDULE_SHAPES.require_name(self.schedule)
        except ValueError as exc:
            raise ValueError(f"schedule {self.schedule!r} {exc}") from exc
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum above 0")
        if self.clip_norm is not None and self.clip_value is not None:
            raise ValueError("clip_norm and clip_value cannot be combined; leave one out")
        if self.rates is not None:
            starts = [step for step, _ in self.rates]
            if not starts or starts[0] != 0 or starts != sorted(set(starts)):
                raise ValueError("rates are (step, rate) pairs whose steps start at 0 and increase")
            if self.schedule != "constant" or self.warmup_steps:
                raise ValueError("rates replace schedule and warmup_steps; leave those out")
        more = [key for key in ("momentum", "weight_decay", "moves", "groups", *_CLIPS) if getattr(self, key)]
        if self.fold and (self.name != "sgd" or more):
            raise ValueError(
                f"fold works only with plain sgd, not with {', '.join(more) or self.name}; leave out one or the other"
            )
        keys = [key for group in self.groups or () for key in group.parameters]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise ValueError(f"parameter {twice!r} is in two groups; leave it in one")


def _accept(given: Any) -> Shape:
    if isinstance(given, type) or not callable(given):
        raise ValueError(
            f"is {given!r:.80}; a schedule is a function of (step, steps) that returns the rate as a share of lr; for "
            "one of torch.optim.lr_scheduler use Trainer(scheduler=...)"
        )
    return given  # type: ignore[no-any-return]


SCHEDULE_SHAPES: Parts[Shape] = Parts(
    "lr schedule",
    {
        "constant": lambda step, steps: 1.0,
        "linear": lambda step, steps: 1 - step / max(1, steps),
        "cosine": lambda step, steps: (1 + math.cos(math.pi * (step / max(1, steps)))) / 2,
    },
    _accept,
)


def rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """The learning rate of ``step`` of a run of ``steps``, counted from 0.

    Raises:
        SpecError: The user's schedule has none for it.
    """
    if config.rates is not None:
        return _value_at(config.rates, step)
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    left = _share(config.schedule, step - config.warmup_steps, steps - config.warmup_steps)
    return config.lr * (config.final_lr + (1 - config.final_lr) * left)


def _share(schedule: str, step: int, steps: int) -> float:
    """A schedule's share of ``lr``."""
    what, shape = f"lr schedule {schedule!r}", SCHEDULE_SHAPES[schedule]
    try:
        share = float(shape(step, steps))
    except Exception as exc:
        raise SpecError(f"{what} fails for step {step} of {steps}: {type(exc).__name__}: {exc}") from exc
    if not 0 <= share < math.inf:
        raise SpecError(f"{what} gives {share} for step {step} of {steps}; it must give a share of lr, 0 or more")
    return share


def find_config(config: OptimizerConfig, name: str) -> OptimizerConfig | None:
    """The settings of one parameter; None if it is in no group, so that it is not trained.

    Args:
        config: The whole optimizer's.
        name: Its key in the model; empty for feedback that is no parameter, which is trained like the whole.
    """
    if config.groups is None or not name:
        return config if config.groups is None else replace(config, groups=None)
    group = next((group for group in config.groups if name in group.parameters), None)
    if group is None:
        return None
    own = {key: value for key, value in vars(group).items() if key != "parameters" and value is not None}
    if "rates" in own:
        own |= {"schedule": "constant", "warmup_steps": 0}
    return replace(config, groups=None, **own)


def config_at(own: OptimizerConfig, step: int, lr: float) -> OptimizerConfig:
    """A parameter's settings at a step.

    Args:
        own: Its settings over the run.
        step: Counted from 0.
        lr: The rate at this step, if it has no ``rates`` of its own.
    """
    moved: dict[str, Any] = {key: _value_at(values, step) for key, values in own.moves.items()}
    betas = moved.pop("beta1", own.betas[0]), moved.pop("beta2", own.betas[1])
    lr = lr if own.rates is None else _value_at(own.rates, step)
    return replace(own, lr=lr, betas=betas, rates=None, moves={}, **moved)


def _value_at(values: Rates, step: int) -> float:
    return values[bisect_right(values, step, key=lambda pair: pair[0]) - 1][1]


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
    gradient = -gradient if config.maximize else gradient
    if config.name == "sgd":
        g = gradient + config.weight_decay * parameter
        if config.momentum:
            before = state.get("momentum_buffer")
            buffer = g if before is None else config.momentum * before.double() + (1 - config.dampening) * g
            g = g + config.momentum * buffer if config.nesterov else buffer
        return -config.lr * g
    decoupled = config.name == "adamw"
    g = gradient if decoupled or not config.weight_decay else gradient + config.weight_decay * parameter
    beta1, beta2 = config.betas
    step = float(state.get("step", 0.0)) + 1
    first = (state["exp_avg"].double() * beta1 if state else torch.zeros_like(g)).add_(g, alpha=1 - beta1)
    second = state["exp_avg_sq"].double() * beta2 if state else torch.zeros_like(g)
    second = second.addcmul_(g, g, value=1 - beta2)
    if config.amsgrad and state:
        second = torch.maximum(second, state["max_exp_avg_sq"].double())
    denominator = second.div_(1 - beta2**step).sqrt_().add_(config.eps)
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
        parameters: By their keys in the model; updated in place, with their ``grad``.
        factors: Instead of the ``grad`` of some, what it is the sum of: the products left^T right. A step empties it.

    Attributes:
        parameters: As given.
        state: For every parameter what torch.optim keeps, by torch's names; empty before the first step.
        scale: What clip_norm multiplied the last gradient by.
    """

    def __init__(
        self, config: OptimizerConfig, parameters: Mapping[str, Tensor], factors: Factors | None = None
    ) -> None:
        self._config, self.parameters, self._factors = config, parameters, {} if factors is None else factors
        fused = all(parameter.device.type == "cpu" for parameter in parameters.values())
        self._kernels: dict[str, Any] = {"fused": fused, "foreach": not fused}
        self.state: dict[Tensor, dict[str, Tensor]] = {parameter: {} for parameter in parameters.values()}
        self._own = {p: own for name, p in parameters.items() if (own := find_config(config, name)) is not None}
        self._groups: list[tuple[OptimizerConfig, list[Tensor]]] = []
        for parameter, own in self._own.items():
            members = next((members for other, members in self._groups if other == own), None)
            if members is None:
                self._groups.append((own, members := []))
            members.append(parameter)
        self.scale = 1.0

    @torch.no_grad()
    def step(self, lr: float, step: int = 0) -> None:
        """Update every parameter that has a gradient; the others stay as they are, with their state, as in torch.

        Args:
            lr: The rate of this step; that of a group without ``rates`` changes by the same share.
            step: Counted from 0.
        """
        for parameter, products in self._factors.items():
            for left, right in products:
                parameter.addmm_(left.t(), right, alpha=lr if self._config.maximize else -lr)
        moved = [p for p in self._own if p.grad is not None and p not in self._factors]
        self._factors.clear()
        clipped = zip(moved, self._clip([p.grad for p in moved if p.grad is not None]), strict=True)
        gradients = {parameter: lay_out_like(gradient, parameter) for parameter, gradient in clipped}
        update = self._sgd if self._config.name == "sgd" else self._adam
        for own, members in self._groups:
            if here := [parameter for parameter in members if parameter in gradients]:
                update(here, [gradients[parameter] for parameter in here], self._now(own, lr, step))

    def multiply_out(self) -> None:
        """Give what is kept in factors its ``grad``, too, for the books."""
        for parameter, products in self._factors.items():
            parameter.grad = sum((left.t() @ right for left, right in products), torch.zeros_like(parameter))

    def config_at(self, parameter: Tensor, lr: float, step: int) -> OptimizerConfig:
        """The settings of one of its parameters at a step, where ``lr`` is the rate of the whole."""
        return self._now(self._own[parameter], lr, step)

    def _now(self, own: OptimizerConfig, lr: float, step: int) -> OptimizerConfig:
        return config_at(own, step, lr if own.lr == self._config.lr else own.lr * (lr / self._config.lr))

    def take(self, parameter: Tensor, kept: Mapping[str, Tensor]) -> None:
        """Set what is kept for a parameter, as ``state`` gave it."""
        self.state[parameter] = {name: v if name == "step" else lay_out_like(v, parameter) for name, v in kept.items()}

    def clip(self, gradient: Tensor) -> Tensor:
        """A part of a gradient as the last step used it: scaled by the layer's factor, or clamped number by number."""
        if (most := self._config.clip_value) is not None:
            return gradient.clamp(-most, most)
        return gradient if self.scale == 1.0 else gradient * self.scale

    def _clip(self, gradients: list[Tensor]) -> list[Tensor]:
        """The gradients that the update uses; ``grad`` is not changed, so that the books see what the signals made."""
        if gradients and (most := self._config.clip_norm) is not None:
            norm = float(torch.nn.utils.get_total_norm(gradients))
            self.scale = min(1.0, most / (norm + 1e-6)) if math.isfinite(norm) else 1.0  # as torch's clip_grad_norm_
        return [self.clip(gradient) for gradient in gradients]

    def _sgd(self, moved: list[Tensor], gradients: list[Tensor], now: OptimizerConfig) -> None:
        begun = ["momentum_buffer" in self.state[parameter] for parameter in moved]
        for going in sorted(set(begun)):  # torch's kernel takes either those with a buffer or those without
            here = [parameter for parameter, has in zip(moved, begun, strict=True) if has == going]
            buffers = [self.state[parameter].get("momentum_buffer") for parameter in here]
            sgd(
                here,
                [gradient for gradient, has in zip(gradients, begun, strict=True) if has == going],
                buffers,
                **self._kernels,
                weight_decay=now.weight_decay,
                momentum=now.momentum,
                lr=now.lr,
                dampening=now.dampening,
                nesterov=now.nesterov,
                maximize=now.maximize,
            )
            for parameter, buffer in zip(here, buffers, strict=True):
                if buffer is not None:
                    self.state[parameter]["momentum_buffer"] = buffer

    def _adam(self, moved: list[Tensor], gradients: list[Tensor], now: OptimizerConfig) -> None:
        states = [self.state[parameter] for parameter in moved]
        for parameter, state in zip(moved, states, strict=True):
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                kept = ("exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if now.amsgrad else []))
                state |= {key: torch.zeros_like(parameter) for key in kept}
        adam(
            moved,
            gradients,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [state["max_exp_avg_sq"] for state in states] if now.amsgrad else [],
            [state["step"] for state in states],
            **self._kernels,
            decoupled_weight_decay=now.name == "adamw",
            amsgrad=now.amsgrad,
            beta1=now.betas[0],
            beta2=now.betas[1],
            lr=now.lr,
            weight_decay=now.weight_decay,
            eps=now.eps,
            maximize=now.maximize,
        )
