"""Any modules under autograd; ``Swap`` puts feedback in place of their weights. Legend in ``block``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from distfa.core.base.dtypes import to_dtype
from distfa.core.base.optim import Factors
from distfa.core.base.seeding import Seeding
from distfa.core.modules import rows
from distfa.core.modules.attributes import (
    KEY,
    Attributes,
    Memory,
    copy_module,
    load_attributes,
    restore_afterwards,
    tensors_beside_parameters,
)
from distfa.core.modules.block import Stand
from distfa.core.modules.constancy import require_constant, structure_of
from distfa.core.modules.section import Section
from distfa.core.modules.swap import Swap
from distfa.errors import ModelError

_NUMBERS_AT_ONCE = 2**24  # of the gradients of single samples
_KEEPS_ITS_NUMBERS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(kw_only=True)
class ModuleTape:
    """The graph of a micro-batch, from ``x`` to ``out``; ``h_in`` and ``h`` are the same numbers without the graph.

    ``z`` is where the error of an output layer begins: in the graph, or ``out`` itself. ``after`` is what the module
    held after a forward that began with ``since``.
    """

    x: Tensor
    out: Tensor
    z: Tensor
    h_in: Tensor
    h: Tensor
    seed: int = 0
    after: Memory | None = None
    # the layer's gradient, if the first backward pass computed it
    own: list[Tensor | None] = field(default_factory=list)


class ModuleBlock:
    """Any modules under autograd: a copy of the user's own is trained.

    Args:
        module: One layer; the keys of its state_dict are those of the model.
        trained: Names of the parameters to train; all others keep their numbers, to the last bit.
        dtype: The dtype of parameters, gradients and optimizer state.
        signals: The dtype of signals and products; normalisations keep ``dtype`` for their own numbers.
        weights: Names of the weights that feedback can stand in for.
        mixing: Names of the parameters that mix numbers in the backward pass and are no weights: feedback that stands
            in for the weights lets the error through them unchanged, so the run must not have such feedback.
        moving: Names of the frozen parameters that the forward itself changes.
        positions: How many axes of the output, after the axis of samples, are positions of a sequence.
        z_of: Name of the module whose output is z_L; empty where the error begins at the output.
        own_apart: Whether the layer's own gradient always has a backward pass to itself, with another delta.
        device: Where to compute.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        trained: tuple[str, ...],
        dtype: torch.dtype,
        signals: torch.dtype,
        weights: tuple[str, ...] = (),
        mixing: frozenset[str] = frozenset(),
        moving: tuple[str, ...] = (),
        positions: int = 0,
        z_of: str = "",
        own_apart: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self._key = module.plan.key if isinstance(module, Section) else next(iter(module._modules))
        self._module = to_dtype(copy_module(module, f"module {self._key!r}"), dtype, device)
        self._signals, self._positions, self._mixing, self._own_apart = signals, positions, mixing, own_apart
        kept = {name: p.detach().clone() for name, p in self._module.named_parameters()}
        self._given = {name: b.clone() for name, b in self._module.named_buffers()} if signals != dtype else {}
        if signals != dtype:
            for part in self._module.modules():
                if not isinstance(part, _KEEPS_ITS_NUMBERS):
                    for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
                        tensor.data = tensor.data.to(signals) if tensor.dtype == dtype else tensor.data
                else:  # on a GPU the input must have the dtype of the numbers it is multiplied with
                    part.register_forward_pre_hook(lambda _, args: tuple(x.to(dtype) for x in args))
                    part.register_forward_hook(lambda _, args, out: out.to(signals))
        self._parameters = dict(self._module.named_parameters())
        first = {id(p): name for name, p in self._parameters.items()}
        every = self._module.named_parameters(remove_duplicate=False)
        self._names = {name: first[id(p)] for name, p in every}  # a module used twice in a layer has two names
        for name, parameter in self._parameters.items():
            parameter.requires_grad_(name in trained)
        self._kept = {n: p.data if p.dtype == dtype else kept[n] for n, p in self._parameters.items()}
        self.trained = {name: self._kept[name] for name in trained}
        self.factors: Factors | None = None
        frozen = {name: b for name, b in self._module.named_buffers() if name in weights}
        self._weights = {name: (self._parameters | frozen)[name].data for name in weights}
        self._swap = Swap(self._parameters | frozen, moving)
        self._z: Tensor | None = None
        if z_of:
            self._module.get_submodule(z_of).register_forward_hook(self._keep_z)
        self._attributes = Attributes(self._module)
        self._seeding = Seeding(self._module, device)

    def infer(self, h_in: Tensor, *, seed: int = 0) -> Tensor:
        with self._restore_afterwards(), self._seeding.drawing_from(seed), torch.no_grad():
            self._module.eval()
            return _whole(self._module(h_in))

    def memory(self) -> Memory:
        return Memory(self._module, parameters=self._seeding.foreign)

    def forward(self, h_in: Tensor, *, seed: int = 0, aside: bool = False, since: Memory | None = None) -> ModuleTape:
        x = h_in.detach()
        if x.is_floating_point():
            x.requires_grad_()
        with self._restore_afterwards() if aside else nullcontext():
            if since is not None:
                since.restore()
            before = structure_of(self._module, self.trained) if self._seeding.foreign else {}
            with self._swap.recording(tensors_beside_parameters(self._module)), self._seeding.drawing_from(seed):
                out = self._module(x)
            after = None if since is None else self.memory()
            if before:
                require_constant(before, self._module, self.trained)
        z, self._z = out if self._z is None else self._z, None
        return ModuleTape(x=x, out=out, z=z, h_in=h_in, h=_whole(out.detach()), seed=seed, after=after)

    def start(self, s: Tensor, tape: ModuleTape) -> Tensor:
        return s.view(tape.out.shape)

    def error(self, delta: Tensor, tape: ModuleTape) -> Tensor:
        if tape.z is tape.out:
            return delta
        (found,) = self._differentiate(delta, tape, [tape.z])
        return torch.zeros_like(delta) if found is None else _whole(found).view(delta.shape)

    def back(self, delta: Tensor, tape: ModuleTape, stand_in: Stand, *, inside: bool = False) -> Tensor:
        with self._swap.standing_in(stand_in):
            if tape.own or self._own_apart or (stand_in and not inside):
                (down,) = self._differentiate(delta, tape, [tape.x])
            else:
                down, *tape.own = self._differentiate(delta, tape, [tape.x, *self._trained_parameters()])
        if stand_in and not self._mixing.isdisjoint(self._swap.used):
            self._refuse_mixing()
        return torch.zeros_like(tape.x) if down is None else _whole(down)

    def accumulate(self, delta: Tensor, tape: ModuleTape, *, first: bool, stand_in: Stand | None = None) -> None:
        if not tape.own:
            with self._swap.standing_in(stand_in or {}):
                tape.own = self._differentiate(delta, tape, self._trained_parameters())
        for master, gradient in zip(self.trained.values(), tape.own, strict=True):
            if gradient is None:
                master.grad = None if first else master.grad
                continue
            sets = first or master.grad is None
            if master.grad is None:
                master.grad = torch.empty_like(master)
            master.grad.copy_(gradient) if sets else master.grad.add_(gradient)

    def gradients(self, delta: Tensor, tape: ModuleTape) -> list[Tensor]:
        found = self._differentiate(delta, tape, self._trained_parameters())
        pairs = zip(found, self.trained.values(), strict=True)
        return [torch.zeros_like(master) if g is None else g.to(master.dtype) for g, master in pairs]

    def sample_norms(self, delta: Tensor, tape: ModuleTape) -> Tensor:
        trained = {name: self._parameters[name].detach() for name in self.trained}

        def square(x: Tensor, sample_delta: Tensor) -> Tensor:
            _, back, *_ = vjp(lambda own: functional_call(self._module, own, (x.unsqueeze(0),)), trained)
            (found,) = back(sample_delta.unsqueeze(0))
            return torch.stack([g.double().square().sum() for g in found.values()]).sum()

        at_once = max(1, _NUMBERS_AT_ONCE // max(1, sum(p.numel() for p in trained.values())))
        squares = vmap(square, chunk_size=at_once)(tape.h_in, delta) if trained else delta.new_zeros(len(delta))
        self._z = None  # the hook's, of these forwards
        return squares.double().sqrt()

    def pass_on(self, feedback: Tensor | None, tape: ModuleTape, rank: int | None = None) -> Tensor:
        end = tape.z if feedback is None else tape.out
        outer, inner = end.shape[: 1 + self._positions], end.shape[1 + self._positions :]
        signs = signs_of(outer).to(end).view(*outer, *[1] * len(inner))

        def back(row: Tensor) -> Tensor:
            with self._draw_again(tape):
                (down,) = torch.autograd.grad(end, [tape.x], signs * row.view(inner), retain_graph=True)
            own = signs.view(*outer, *[1] * (down.dim() - len(outer))) * down
            return own.mean(tuple(range(len(outer)))).flatten()

        if feedback is not None:
            return rows.take_back(feedback, back, rank)
        outputs, (only, *more) = math.prod(inner), [*self._module.children()]
        if outputs > rows.MANY and type(only) is nn.Linear and not more:
            return only.weight.detach().to(self._signals)  # the same for every sample and position
        return rows.take_back_identity(outputs, end, back)

    def weights(self) -> dict[str, Tensor]:
        return dict(self._weights)

    def follow(self) -> None:
        for name, kept in self._kept.items():
            if kept.dtype != self._parameters[name].dtype:
                self._parameters[name].data.copy_(kept)

    def state(self) -> dict[str, Tensor]:
        parameters = {  # a second name gets its own memory: a file of weights may not hold the same memory twice
            name: self._kept[first] if name == first else self._kept[first].clone()
            for name, first in self._names.items()
        }
        own = self._module.state_dict().items()
        buffers = {name: self._full_buffer(name, b) for name, b in own if name not in parameters}
        return {**parameters, **buffers, **self._attributes.state(self._key)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        for name, own in self._module.state_dict().items():
            (self._kept[self._names[name]] if name in self._names else own).copy_(state[name])
        load_attributes(self._module, {key: state[key] for key in (KEY + self._key,) if key in state})
        self.follow()

    def _full_buffer(self, name: str, buffer: Tensor) -> Tensor:
        """A buffer in the run's dtype; if a mixed run only rounded it for its products, the numbers that were given."""
        given = self._given.get(name, buffer)
        if given.dtype == buffer.dtype:
            return buffer
        return given if torch.equal(given.to(buffer.dtype), buffer) else buffer.to(given.dtype)

    def _keep_z(self, module: nn.Module, args: object, z: Tensor) -> Tensor:
        """Keep z; what comes after it gets a copy, since it may change that in place."""
        self._z = z
        return z.clone()

    def _draw_again(self, tape: ModuleTape) -> AbstractContextManager[None]:
        """Seed what a user's module draws in the backward pass, by micro-batch; torch's own modules draw nothing."""
        return self._seeding.drawing_from(tape.seed) if self._seeding.foreign else nullcontext()

    def _restore_afterwards(self) -> AbstractContextManager[None]:
        return restore_afterwards(self._module, parameters=self._seeding.foreign)

    def _trained_parameters(self) -> list[Tensor]:
        return [self._parameters[name] for name in self.trained]

    def _differentiate(self, delta: Tensor, tape: ModuleTape, wanted: list[Tensor]) -> list[Tensor | None]:
        """Gradients; None for what this forward did not use, as torch has it."""
        if not wanted or not tape.out.requires_grad:
            return [None] * len(wanted)
        with self._draw_again(tape):
            found = torch.autograd.grad(tape.out, wanted, delta, retain_graph=True, allow_unused=True)
        return [g.to_dense() if g is not None and g.is_sparse else g for g in found]

    def _refuse_mixing(self) -> None:
        name = min(self._mixing & self._swap.used)
        raise ModelError(
            f"the error went back through {name!r} itself, which no feedback replaces and no trial had used; use "
            "rule bp or a direct rule, or have the module use Linears and Convs"
        )


def signs_of(shape: torch.Size) -> Tensor:
    """1 or -1 for every sample and every position; the same signs each time.

    A row of feedback is sent back through all samples at once, but only the effect of each sample on itself is wanted.
    Batch normalisation mixes samples (and leaves nothing of a row that is the same for all), attention mixes positions.
    So each sample's row gets its own sign on the way in and loses it on the way out: what has crossed over to another
    sample keeps a random sign and averages out.
    """
    drawn = torch.randint(2, shape, generator=torch.Generator().manual_seed(0))
    return 2 * drawn - 1


def _whole(signal: Tensor) -> Tensor:
    """The numbers in new memory, in order and aligned: BLAS may round differently on other alignments."""
    signal = signal.contiguous()
    return signal.clone() if signal.storage_offset() else signal
