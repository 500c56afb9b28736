"""Everything random, from (run seed, purpose, index) by a counter-based generator.

Philox with the purpose and index in its key gives every layer its own stream, whatever is drawn before: any end of the
wire draws any matrix alone, which is why feedback matrices never travel.
Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from distfa.core.base.recipe import Recipe


class Purpose(IntEnum):
    """The purpose of a stream of random numbers; part of the key, so streams never overlap."""

    WEIGHT = 1
    FEEDBACK = 2
    ORDER = 3
    MAGNITUDE = 4
    DIRECTIONS = 5
    DROPOUT = 6
    EVALUATION = 7


def generator(seed: int, purpose: Purpose, index: int, part: int = 0) -> np.random.Generator:
    """The stream of random numbers that belongs to (seed, purpose, index, part); index below 2^48, part below 2^8."""
    return np.random.Generator(np.random.Philox(key=[seed, part << 56 | int(purpose) << 48 | index]))


def micro_batch_seed(seed: int, layer: int, step: int, micro_batch: int) -> int:
    """Seed of what a layer's modules draw in one micro-batch (dropout), for the global generators."""
    return int(generator(seed, Purpose.DROPOUT, layer << 32 | step, micro_batch % 256).integers(2**63)) + micro_batch


def evaluation_seed(seed: int, layer: int, part: int) -> int:
    """Seed of what a layer's modules draw in evaluation, in one part of the samples: the same at every evaluation."""
    return int(generator(seed, Purpose.EVALUATION, layer << 32 | part).integers(2**63))


NOT_DRAWN = -1
"""A seed for which matrices have a shape and no numbers (torch's device ``meta``), to find out what layers cost."""

DISTRIBUTIONS: tuple[str, ...] = ("orthogonal", "normal", "uniform")


def matrix(
    rows: int, columns: int, *, seed: int, purpose: Purpose, index: int, distribution: str, part: int = 0
) -> Tensor:
    """A random matrix, float64, shape (rows, columns), whose rows have a mean square norm of 1.

    ``normal`` and ``uniform`` have independent elements of variance 1 / columns. ``orthogonal`` is
    uniform (Haar) over matrices with orthonormal rows, or with orthogonal columns where there are
    fewer of those. LAPACK computes it: the same kind of processor with the same number of threads gives the same bits.
    Source: Saxe, McClelland & Ganguli, ICLR 2014, for orthogonal weights.
    """
    if seed == NOT_DRAWN:
        return torch.empty(rows, columns, dtype=torch.float64, device="meta")
    random = generator(seed, purpose, index, part)
    if distribution == "uniform":
        return torch.from_numpy(random.uniform(-1.0, 1.0, (rows, columns))).mul_((3.0 / columns) ** 0.5)
    normal = torch.from_numpy(random.standard_normal((rows, columns)))
    if distribution == "normal":
        return normal.div_(columns**0.5)
    tall = normal if rows >= columns else normal.t()
    q: Tensor
    q, r = torch.linalg.qr(tall)
    q = q * r.diagonal().sign()
    return (q * (rows / columns) ** 0.5 if rows >= columns else q.t()).contiguous()


def initial_weight(recipe: Recipe, layer: int, purpose: Purpose = Purpose.WEIGHT) -> Tensor:
    """W_l(0), shape (d_l, d_{l-1}), float64: a random matrix times the gain of the layer's activation.

    Feedback matrices of the random initialisation are drawn the same way from their own stream.
    Source: He et al. 2015 for the ReLU gain.
    """
    shape = recipe.network[layer]
    drawn = matrix(
        shape.outputs, shape.inputs, seed=recipe.seed, purpose=purpose, index=layer, distribution=recipe.distribution
    )
    return drawn.mul_(shape.activation.gain)
