"""The order in which a layer works through the micro-batches of a step.

``sync`` is 1F1B: a layer runs ahead by as many forwards as there are layers above it, then backward
and forward alternate, so at most L - l + 1 micro-batches are kept at layer l. Every update of step t
uses weights of step t only. Three layers, four micro-batches, time to the right:

    layer 3          F0 B0 F1 B1 F2 B2 F3 B3
    layer 2       F0 F1    B0 F2 B1 F3 B2    B3
    layer 1    F0 F1 F2       B0 F3 B1    B2    B3

Source: Narayanan et al., "PipeDream", SOSP 2019, for 1F1B; flushed at the end of the step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Forward(NamedTuple):
    """Run the forward of a micro-batch."""

    micro_batch: int


class Backward(NamedTuple):
    """Run the backward of a micro-batch, which accumulates its gradient."""

    micro_batch: int


def sync(layer: int, layers: int, micro_batches: int) -> Iterator[Forward | Backward]:
    """The operations of one step at ``layer`` of ``layers``, in order.

    Backwards come in micro-batch order, so gradients add up in the same order everywhere.
    """
    ahead = min(layers - layer, micro_batches)
    for m in range(ahead):
        yield Forward(m)
    for m in range(micro_batches):
        if m + ahead < micro_batches:
            yield Forward(m + ahead)
        yield Backward(m)
