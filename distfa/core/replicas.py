"""Replicas of a layer: each takes its own micro-batches of a step, and before the update they add up their gradients.

    micro-batch   0  1  2  3  4  5  6       G_0 = ((g_0 + g_3) + g_6)   G_1 = g_1 + g_4   G_2 = g_2 + g_5
    replica       0  1  2  0  1  2  0       G = (G_0 + G_1) + G_2

A sum has this one association in every engine. So a gradient is cut into a slice for each replica, the owner of a slice
gets all parts of it, adds them in the order of the replicas, and hands out the sum (reduce-scatter, then all-gather).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from distfa.core.requests import Give, Take, Work
from distfa.core.routes import Kind, Link

_PIECE_NUMBERS = 2**20  # numbers of a slice that one message carries: 4 MiB in float32


class Accumulators:
    """The gradients that the replicas of a layer accumulate, those of one replica in place as ``grad``.

    Args:
        tensors: All tensors that have gradients.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tensors
        self._in_place = 0
        self._others: dict[int, list[Tensor | None]] = {}  # by replica, those that are not in place
        self._begun: set[int] = set()  # the replicas that have accumulated something since the last update

    def begins(self, replica: int) -> bool:
        """Put a replica's gradients in place; returns whether this is its first micro-batch since the last update."""
        if replica != self._in_place:
            self._others[self._in_place] = [tensor.grad for tensor in self._tensors]
            for tensor, gradient in zip(self._tensors, self._others.pop(replica, self._none()), strict=True):
                tensor.grad = gradient
            self._in_place = replica
        first = replica not in self._begun
        self._begun.add(replica)
        return first

    @property
    def empty(self) -> bool:
        """Whether nothing has been accumulated since the last update."""
        return not self._begun

    def part(self, replica: int) -> Tensor:
        """All that a replica has accumulated as one vector: its gradients, then for each a 1 if there is one, else 0.

        A tensor that no forward used has no gradient, in torch as here.
        """
        own: list[Tensor | None] = self._none()
        if replica in self._begun:
            here = replica == self._in_place
            own = [tensor.grad for tensor in self._tensors] if here else self._others[replica]
        if not own:
            return torch.empty(0)
        pairs = list(zip(own, self._tensors, strict=True))
        flat = [torch.zeros_like(tensor).flatten() if grad is None else grad.flatten() for grad, tensor in pairs]
        there = [tensor.new_full((1,), float(grad is not None)) for grad, tensor in pairs]
        return torch.cat([*flat, *there])

    def take(self, total: Tensor) -> None:
        """Set the gradients to those of all replicas, which are the sum of their parts."""
        sizes = [tensor.numel() for tensor in self._tensors]
        *sums, there = torch.split(total, [*sizes, len(sizes)])
        for tensor, numbers, used in zip(self._tensors, sums, there.tolist(), strict=True):
            if not used:
                tensor.grad = None
                continue
            tensor.grad = torch.empty_like(tensor) if tensor.grad is None else tensor.grad
            tensor.grad.copy_(numbers.view(tensor.shape))

    def clear(self) -> None:
        """The update has been made."""
        self._begun.clear()

    def _none(self) -> list[Tensor | None]:
        return [None] * len(self._tensors)


def add_in_order(parts: Sequence[Tensor]) -> Tensor:
    """The sum of the replicas' parts, in new memory."""
    total = parts[0].clone()
    for part in parts[1:]:
        total += part
    return total


class Beside:
    """A replica's links to the others of its layer.

    Args:
        links: All links between replicas of the layer.
        replica: This one, counted from 0.
        replicas: How many there are.
        dtype: Of what the links carry.
    """

    def __init__(self, links: Sequence[Link], replica: int, replicas: int, dtype: torch.dtype) -> None:
        self._replica, self._replicas, self._dtype = replica, replicas, dtype
        self._to = {link.receiving_replica: link for link in links if link.replica == replica}
        self._from = {link.replica: link for link in links if link.receiving_replica == replica}

    def add_up(self, part: Tensor, step: int) -> Work[Tensor]:
        """The sum of the parts of all replicas; all call it in the same order."""
        total = torch.empty_like(part)
        for number, slices in enumerate(_pieces(len(part), self._replicas)):
            for other, link in self._to.items():
                yield Give(link, Kind.GRADIENT, step, 2 * number, part[slices[other]].unsqueeze(1))
            own, parts = slices[self._replica], {self._replica: part[slices[self._replica]]}
            for other, link in self._from.items():
                taken = yield Take(link, Kind.GRADIENT, step, 2 * number, own.stop - own.start)
                parts[other] = taken.flatten()
            total[own] = add_in_order([parts[replica] for replica in range(self._replicas)])
            for link in self._to.values():
                yield Give(link, Kind.GRADIENT, step, 2 * number + 1, total[own].unsqueeze(1))
            for other, link in self._from.items():
                there = slices[other]
                taken = yield Take(link, Kind.GRADIENT, step, 2 * number + 1, there.stop - there.start)
                total[there] = taken.flatten()
        return total

    def collect(self, figures: Tensor, step: int, place: int) -> Work[list[Tensor]]:
        """What all replicas have, in their order: at the first replica; the others get an empty list.

        Args:
            figures: What this one has, 8 bytes each, (n,); all have as many.
            step: Counted from 0.
            place: Tells apart what is collected in one step.
        """
        if self._replica:
            every_byte = figures.view(torch.uint8).to(self._dtype)  # each is a number that every dtype holds exactly
            yield Give(self._to[0], Kind.FIGURES, step, place, every_byte.unsqueeze(1))
            return []
        found = [figures]
        for link in self._from.values():
            taken = yield Take(link, Kind.FIGURES, step, place, 8 * len(figures))
            found.append(taken.cpu().to(torch.uint8).flatten().view(figures.dtype))
        return found


def _pieces(numbers: int, replicas: int) -> Iterator[list[slice]]:
    """A vector in pieces, each cut into a slice for every replica; every slice of a piece but the last is as long."""
    most = _PIECE_NUMBERS * replicas
    for start in range(0, numbers, most):
        end = min(start + most, numbers)
        size = -(-(end - start) // replicas)
        bounds = [min(start + size * replica, end) for replica in range(replicas + 1)]
        yield [slice(a, b) for a, b in pairwise(bounds)]
