"""The order of the data: which rows are in each batch and micro-batch, from the seed alone or from a loader's batches.

By this order the first layer reads inputs and the last one reads labels, each for itself. That is why labels never
travel with activations.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from distfa.core.base import optim
from distfa.core.base.draw import Purpose, generator
from distfa.core.base.recipe import Recipe
from distfa.core.base.windows import WindowedRows

_EVAL_ROWS = 1000  # rows of one evaluation message; fixed, so that every engine rounds in the same way
_EVAL_NUMBERS = 8 * 2**20  # numbers in one evaluation message, where samples are large: 32 MiB


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The rows of one step.

    Attributes:
        step: Counted from 0 over the whole run.
        epoch: Counted from 0.
        parts: Row numbers of each micro-batch, in order; no part is empty, but a batch may have none.
        divisor: By how many rows the loss is divided: those of the batch; in a private run always the same number,
            which tells nothing about the batch.
        evaluate: Whether the test set is evaluated after this step.
        probe: Whether gradient alignment is probed in this step.
        cut: Whether the state of all layers can be kept after this step.
        drains: Whether every backward of the step comes before any forward of the next: always under ``sync`` and in
            the first ``sync_epochs``; else at the end of an epoch, before an evaluation, and at a cut.
        lr: Learning rate of the step's update.
        last: Whether it is the last step of the run.
    """

    step: int
    epoch: int
    parts: tuple[NDArray[np.int64], ...]
    divisor: int
    evaluate: bool
    probe: bool
    cut: bool
    drains: bool
    lr: float
    last: bool = False

    @property
    def rows(self) -> int:
        """Rows of the whole batch."""
        return sum(len(part) for part in self.parts)


def count_steps(recipe: Recipe, samples: int) -> int:
    """Steps of the whole run: all batches of all epochs, at most ``max_steps``."""
    total = _ends(recipe, samples)[-1]
    return total if recipe.max_steps is None else min(total, recipe.max_steps)


def steps_per_epoch(recipe: Recipe, samples: int) -> int:
    """ceil(samples / batch_size), where no loader makes the batches; the last batch of an epoch may be smaller."""
    return -(-samples // recipe.batch_size)


def epoch_ends(recipe: Recipe, samples: int) -> list[int]:
    """The number of steps that have been made at the end of each epoch; the last one may be cut short."""
    total, ends = count_steps(recipe, samples), _ends(recipe, samples)
    return [*ends[: bisect_left(ends, total)], total]


def _ends(recipe: Recipe, samples: int) -> Sequence[int]:
    """The same, without ``max_steps``."""
    if recipe.batches is None:
        per_epoch = steps_per_epoch(recipe, samples)
        return range(per_epoch, per_epoch * recipe.epochs + 1, per_epoch)
    return list(accumulate(map(len, recipe.batches)))


def batches(recipe: Recipe, samples: int, *, first: int = 0, stop: int | None = None) -> Iterator[Batch]:
    """Every batch of the run from step ``first`` on, in order: each epoch a permutation of all samples, or as given.

    Args:
        recipe: Gives seed, epochs, batch size and micro-batches.
        samples: Rows of the training set.
        first: The step to begin with.
        stop: The step before which to end; None for the end of the run.

    Raises:
        ValueError: Under ``async`` the pipe is not empty before ``stop``, so that the rest could not be the same.
    """
    ends, total = _ends(recipe, samples), count_steps(recipe, samples)
    epoch = -1
    for step in range(first, total if stop is None else min(stop, total)):
        if step == first or step == ends[epoch]:
            epoch = bisect_right(ends, step)
            rows_of = _rows_of_batches(recipe, samples, epoch)
        rows = rows_of(step - (ends[epoch - 1] if epoch else 0))
        ends_epoch, last = step == ends[epoch] - 1, step == total - 1
        evaluate = last or (ends_epoch and (epoch + 1) % recipe.eval_every == 0)
        cut = bool(recipe.cuts.every) and (step + 1) % recipe.cuts.every == 0
        cut = not last and (cut or (recipe.cuts.at_evaluation and ends_epoch))
        small = len(rows) < min(recipe.micro_batches, recipe.batch_size)
        drains = last or ends_epoch or cut or small or recipe.schedule == "sync" or epoch < recipe.sync_epochs
        if stop is not None and step == stop - 1 and not drains:
            raise ValueError(
                f"step {stop} is within an epoch that runs asynchronously, where micro-batches of the previous "
                f"step are still in transit; stop at the end of an epoch, such as after step {ends[epoch]}, or at "
                "a snapshot (checkpoint.every)"
            )
        yield Batch(
            step=step,
            epoch=epoch,
            parts=_split(recipe, rows),
            divisor=len(rows) if recipe.private is None else recipe.private.rows,
            evaluate=evaluate,
            probe=bool(recipe.probe.every) and step % recipe.probe.every == 0,
            cut=cut,
            drains=drains,
            lr=optim.rate(recipe.optimizer, step, total),
            last=last,
        )


def part_rows(recipe: Recipe, samples: int) -> set[int]:
    """How many rows the micro-batches of the run have."""
    if recipe.batches is None:
        steps = min(steps_per_epoch(recipe, samples), count_steps(recipe, samples))
        sizes = {min(recipe.batch_size, samples - step * recipe.batch_size) for step in {0, steps - 1}}
    else:
        sizes = {rows for epoch in set(recipe.batches) for rows in epoch}
    return {len(part) for rows in sizes for part in _split(recipe, np.arange(rows))}


def _split(recipe: Recipe, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """The micro-batches of a batch."""
    return tuple(np.array_split(rows, min(recipe.micro_batches, len(rows)))) if len(rows) else ()


def _rows_of_batches(recipe: Recipe, samples: int, epoch: int) -> Callable[[int], NDArray[np.int64]]:
    """The rows of a batch of an epoch, by its number there; those of a loader are numbered through all epochs."""
    if recipe.batches is not None:
        begin = sum(sum(sizes) for sizes in recipe.batches[:epoch])
        given, sizes = np.arange(begin, begin + sum(recipe.batches[epoch])), recipe.batches[epoch]
        return np.split(given, np.cumsum(sizes)[:-1]).__getitem__
    rows: WindowedRows | NDArray[np.int64]
    if recipe.order != "drawn":
        rows = np.arange(epoch * samples, (epoch + 1) * samples)
    elif recipe.shards:
        rows = WindowedRows(recipe.shards, recipe.window, seed=recipe.seed, epoch=epoch)
    else:
        rows = draw_order(recipe.seed, samples, epoch)
    size = recipe.batch_size
    return lambda number: rows[number * size : (number + 1) * size]


def draw_order(seed: int, samples: int, epoch: int) -> NDArray[np.int64]:
    """The permutation of an epoch that the seed draws."""
    return generator(seed, Purpose.ORDER, epoch).permutation(samples)


def evaluation(recipe: Recipe, samples: int) -> Iterator[NDArray[np.int64]]:
    """The rows of each evaluation message, in order over the whole test set."""
    rows = max(1, min(_EVAL_ROWS, _EVAL_NUMBERS // max(recipe.network.sizes)))
    for start in range(0, samples, rows):
        yield np.arange(start, min(start + rows, samples))


def audit(recipe: Recipe, samples: int) -> NDArray[np.int64]:
    """The training rows that go up the trained layers at the end."""
    return np.arange(min(recipe.audit_rows, samples))
