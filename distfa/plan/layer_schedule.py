"""The order of a layer's operations in a run without end, from ``distfa.core.schedule``.

GPipe, the simplest order of a pipeline, makes all forwards of a step, then all backwards (Huang et al. 2019).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import numpy as np

from distfa.core import schedule
from distfa.core.base.order import Batch
from distfa.core.base.recipe import Recipe


def rows(recipe: Recipe) -> tuple[int, ...]:
    """Rows of every micro-batch of a step, as ``distfa.core.base.order`` splits it."""
    parts = min(recipe.micro_batches, recipe.batch_size)
    return tuple(recipe.batch_size // parts + (m < recipe.batch_size % parts) for m in range(parts))


def operations(recipe: Recipe, layer: int, *, gpipe: bool = False) -> Iterator[schedule.Operation]:
    """Every operation of ``layer``."""
    return schedule.operations(
        _batches(recipe), recipe.micro_batches if gpipe else schedule.forwards_ahead(recipe, layer)
    )


def _batches(recipe: Recipe) -> Iterator[Batch]:
    """Whole batches, with neither epochs nor evaluations between them."""
    parts = tuple(np.empty(n, dtype=np.int64) for n in rows(recipe))
    for step in count():
        yield Batch(
            step=step,
            epoch=0,
            parts=parts,
            evaluate=False,
            probe=False,
            cut=False,
            drains=recipe.schedule == "sync",
            lr=recipe.optimizer.lr,
        )
