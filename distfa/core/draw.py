"""Everything random, from (run seed, purpose, index) by a counter-based generator.

Philox with the purpose and index in its key gives every layer its own stream without order: any
end of the wire draws any matrix alone, which is why feedback matrices never travel.
Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from distfa.core.network import Network


class Purpose(IntEnum):
    """What a stream of random numbers is for; part of the key, so streams never overlap."""

    WEIGHT = 1
    FEEDBACK = 2
    ORDER = 3


def generator(seed: int, purpose: Purpose, index: int) -> np.random.Generator:
    """The stream of random numbers that belongs to (seed, purpose, index)."""
    return np.random.Generator(np.random.Philox(key=[seed, (int(purpose) << 48) | index]))


def initial_weight(network: Network, layer: int, seed: int, purpose: Purpose = Purpose.WEIGHT) -> Tensor:
    """W_l(0), shape (d_l, d_{l-1}), float64: normal, standard deviation gain / sqrt(d_{l-1}).

    Feedback matrices of the random initialisation are drawn the same way from their own stream.
    Source: He et al. 2015 for the ReLU gain.
    """
    shape = network[layer]
    normal = generator(seed, purpose, layer).standard_normal((shape.outputs, shape.inputs))
    return torch.from_numpy(normal).mul_(shape.activation.gain / shape.inputs**0.5)
