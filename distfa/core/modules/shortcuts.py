"""Finds the shortcut of a layer from its modules alone: its way back with zeros in place of all that is trained.

What is left leads through no trained weight. It is a shortcut if it is the same matrix for every input.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distfa.core.base.model import LayerSpec
from distfa.core.base.seeding import Seeding
from distfa.core.base.shortcuts import take_down
from distfa.core.modules.attributes import copy_module, tensors_beside_parameters
from distfa.core.modules.parameters import weights_of
from distfa.core.modules.swap import Swap

_ROWS = 128  # numbers of h_l that are taken back at once
_LOOKED_AT = 4  # samples
_SCALES = (1.0, -10.0)  # of their numbers: what depends on a sign or on a limit shows itself
_ROUND_OFF = 1e-4  # of the largest number


class Blocked(Exception):
    """A layer has no shortcut; the message is the reason."""


def find_shortcut(part: nn.Module | None, spec: LayerSpec, where: str) -> Tensor | None:
    """The shortcut of a layer, sparse, (numbers of h_l, numbers of h_{l-1}); None for the identity.

    Args:
        part: Its modules, left unchanged; None for a plain layer.
        spec: Its description.
        where: What to call it in messages.

    Raises:
        Blocked: It has none.
    """
    if part is None or spec.plain:
        raise Blocked("no path leads through it without trained weights")
    one, other = (_WayBack(copy_module(part, where), spec, seed, scale) for seed, scale in enumerate(_SCALES))
    random = torch.Generator().manual_seed(2)
    signal = torch.randn(_LOOKED_AT, spec.outputs, generator=random).to(one.dtype)
    down, again = one.take(signal), other.take(signal)
    if not bool(down.any()):
        raise Blocked("no path leads through it without trained weights")
    if torch.equal(down, signal) and torch.equal(again, signal):
        return None
    if not _agree(down, again):
        raise Blocked("its shortcut changes with the data (a ReLU, a norm, a gate, dropout or a frozen branch on it)")
    for read in (_read_by_channels, _read_row_by_row):
        matrix = read(one, spec).coalesce()
        if _agree(down, take_down(signal, matrix.t())):
            return matrix
    raise Blocked("its shortcut mixes samples")


def _read_by_channels(way: _WayBack, spec: LayerSpec) -> Tensor:
    """The matrix, if each number of h_{l-1} goes into one number of a channel of h_l: all of a channel at once.

    Every channel is taken back twice: as ones, and as the places of its numbers, which tells where each went.
    """
    channels, numbers = spec.output_shape[0], spec.outputs // spec.output_shape[0]
    masks = torch.eye(channels, dtype=way.dtype).repeat_interleave(numbers, 1)
    entries, marked = (way.take(signals) for signals in (masks, masks * torch.arange(1, spec.outputs + 1)))
    channel, column = entries.nonzero(as_tuple=True)
    values = entries[channel, column]
    row = (marked[channel, column] / values).round().long().clamp(1, spec.outputs) - 1
    places, size = torch.stack([row, column]), (spec.outputs, entries.shape[1])
    return torch.sparse_coo_tensor(places, values, size, check_invariants=True)


def _read_row_by_row(way: _WayBack, spec: LayerSpec) -> Tensor:
    """The matrix, whatever it is: every number of h_l apart."""
    every = torch.eye(spec.outputs, dtype=way.dtype)
    return torch.cat([way.take(rows).to_sparse() for rows in torch.split(every, _ROWS)])


class _WayBack:
    """The way back through a copy of a layer, with zeros in place of trained parameters.

    Two of these differ in the scale and sign of the same inputs, in their trained parameters and in what they draw:
    what a module derives from a parameter first, no zero can replace, and shows itself as a difference.
    """

    def __init__(self, module: nn.Module, spec: LayerSpec, seed: int, scale: float) -> None:
        self._module, self._spec, self._seed, self._seeding, self._scale = module, spec, seed, Seeding(module), scale
        parameters = dict(module.named_parameters())
        self.dtype = next(iter(parameters.values())).dtype
        changing = {name: p for name, p in parameters.items() if p.requires_grad or name in spec.moving}
        random = torch.Generator().manual_seed(seed)
        for parameter in changing.values():
            parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=random).to(self.dtype))
        self._inputs = torch.Generator().manual_seed(3)
        self._zeros = {name: torch.zeros_like(p) for name, p in changing.items()}
        self._swap = Swap(parameters | dict(weights_of(module)))

    def take(self, signals: Tensor) -> Tensor:
        """Signals (n, numbers of h_l), taken back through as many samples: (n, numbers of h_{l-1})."""
        if len(signals) > _ROWS:
            return torch.cat([self.take(some) for some in torch.split(signals, _ROWS)])
        drawn = torch.randn(len(signals), *self._spec.input_shape, generator=self._inputs)
        x = (self._scale * drawn).to(self.dtype).requires_grad_()
        with self._swap.recording(tensors_beside_parameters(self._module)), self._seeding.drawing_from(self._seed):
            out = self._module(x)
        with self._swap.standing_in(self._zeros), self._seeding.drawing_from(self._seed):
            (down,) = torch.autograd.grad(out, [x], signals.view(out.shape), allow_unused=True)
        return torch.zeros_like(x).flatten(1) if down is None else down.flatten(1)


def _agree(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=0.0, atol=_ROUND_OFF * a.abs().max().item())
