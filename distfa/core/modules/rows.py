"""Rows of direct feedback on their way back through the layers: one by one, or by their directions where they are many.

A row for every output goes back through a network. Where outputs are many, these rows are combinations of fewer
directions, since no more get through the narrowest boundary that they have crossed. Then only the directions go back
through a layer, and the rows are made of what comes out: the same rows up to round-off, in a small part of the time.

Shapes: rows (C, numbers of h_l at a position); taken back (C, numbers of h_{l-1} at a position).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from distfa.core.base.model import Network

MANY = 1024  # outputs; up to here each row goes back itself

Back = Callable[[Tensor], Tensor]
"""One row back through a layer, as a mean over samples."""


def directions(network: Network, layer: int) -> int | None:
    """How many directions the rows that come to a layer's output can have; None where each row goes back itself.

    Args:
        network: The layers.
        layer: Counted from 1; below the output layer.
    """
    narrowest = min(feedback_columns(network, boundary) for boundary in range(layer, len(network)))
    return narrowest if network.outputs > MANY and 2 * narrowest <= network.outputs else None


def feedback_columns(network: Network, boundary: int) -> int:
    """Numbers of h_l at one position: the columns of B_l."""
    return math.prod(network.shapes[boundary][len(network.positions) :])


def take_back(rows: Tensor, back: Back, rank: int | None) -> Tensor:
    """All rows taken back through a layer; if ``rank`` is not None, by that many directions that span them.

    Source: Halko, Martinsson & Tropp, SIAM Review 2011: random combinations of rows span them.
    """
    if rank is None:
        return _one_by_one(rows, back)
    exact = rows if rows.dtype == torch.float64 else rows.float()
    mixing = torch.randn(len(rows), rank, dtype=exact.dtype, generator=torch.Generator().manual_seed(0))
    basis: Tensor = torch.linalg.qr(exact.t() @ mixing.to(rows.device))[0]
    through = _one_by_one(basis.t().to(rows.dtype), back).to(exact.dtype)
    return ((exact @ basis) @ through).to(rows.dtype)


def take_back_identity(outputs: int, like: Tensor, back: Back) -> Tensor:
    """The rows of the identity taken back, one by one; the identity itself would be the largest matrix of a run."""
    row, found = like.new_zeros(outputs), []
    for output in range(outputs):
        row[output] = 1.0
        found.append(back(row))
        row[output] = 0.0
    return torch.stack(found)


def _one_by_one(rows: Tensor, back: Back) -> Tensor:
    return torch.stack([back(row) for row in rows])
