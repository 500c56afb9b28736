"""The order of the data: which rows are in each batch and micro-batch, from the seed alone.

By this order the first layer reads inputs and the last one reads labels, each for itself. That is why labels never
travel with activations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distfa.core import optim
from distfa.core.draw import Purpose, generator
from distfa.core.recipe import Recipe

_EVAL_ROWS = 1000  # rows of one evaluation message; fixed, so that every engine rounds in the same way
_EVAL_NUMBERS = 8 * 2**20  # numbers in one evaluation message, where samples are large: 32 MiB


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The rows of one step.

    Attributes:
        step: Counted from 0 over the whole run.
        epoch: Counted from 0.
        parts: Row numbers of each micro-batch, in order; no part is empty.
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


def steps(recipe: Recipe, samples: int) -> int:
    """Steps of the whole run: ceil(samples / batch_size) per epoch, at most ``max_steps``."""
    total = recipe.epochs * steps_per_epoch(recipe, samples)
    return total if recipe.max_steps is None else min(total, recipe.max_steps)


def steps_per_epoch(recipe: Recipe, samples: int) -> int:
    """ceil(samples / batch_size); the last batch of an epoch may be smaller."""
    return -(-samples // recipe.batch_size)


def epoch_ends(recipe: Recipe, samples: int) -> list[int]:
    """The number of steps that have been made at the end of each epoch; the last one may be cut short."""
    total, per_epoch = steps(recipe, samples), steps_per_epoch(recipe, samples)
    return [*range(per_epoch, total, per_epoch), total]


def batches(recipe: Recipe, samples: int, *, first: int = 0, stop: int | None = None) -> Iterator[Batch]:
    """Every batch of the run from step ``first`` on, in order: each epoch a permutation of all samples.

    Args:
        recipe: Gives seed, epochs, batch size and micro-batches.
        samples: Rows of the training set.
        first: The step to begin with.
        stop: The step before which to end; None for the end of the run.

    Raises:
        ValueError: Under ``async`` the pipe is not empty before ``stop``, so that the rest could not be the same.
    """
    per_epoch, total = steps_per_epoch(recipe, samples), steps(recipe, samples)
    permutation = np.empty(0, dtype=np.int64)
    for step in range(first, total if stop is None else min(stop, total)):
        epoch, position = divmod(step, per_epoch)
        if position == 0 or step == first:
            permutation = _epoch_rows(recipe, samples, epoch)
        rows = permutation[position * recipe.batch_size : (position + 1) * recipe.batch_size]
        ends_epoch, last = position == per_epoch - 1, step == total - 1
        evaluate = last or (ends_epoch and (epoch + 1) % recipe.eval_every == 0)
        cut = bool(recipe.checkpoint_every) and (step + 1) % recipe.checkpoint_every == 0
        cut = not last and (cut or (recipe.cut_at_epochs and ends_epoch))
        drains = last or ends_epoch or cut or recipe.schedule == "sync" or epoch < recipe.sync_epochs
        if stop is not None and step == stop - 1 and not drains:
            raise ValueError(
                f"step {stop} is within an epoch that runs asynchronously, where micro-batches of the step before are "
                f"still under way; stop at the end of an epoch, after a multiple of {per_epoch} steps, or at "
                "a cut (checkpoint.every)"
            )
        yield Batch(
            step=step,
            epoch=epoch,
            parts=tuple(np.array_split(rows, min(recipe.micro_batches, len(rows)))),
            evaluate=evaluate,
            probe=bool(recipe.probe_every) and step % recipe.probe_every == 0,
            cut=cut,
            drains=drains,
            lr=optim.rate(recipe.optimizer, step, total),
            last=last,
        )


def part_rows(recipe: Recipe, samples: int) -> set[int]:
    """How many rows the micro-batches of the run have."""
    epoch = batches(recipe, samples, stop=min(steps_per_epoch(recipe, samples), steps(recipe, samples)))
    return {len(part) for batch in epoch for part in batch.parts}


def _epoch_rows(recipe: Recipe, samples: int, epoch: int) -> NDArray[np.int64]:
    if recipe.order == "given":
        return np.arange(epoch * samples, (epoch + 1) * samples)
    return drawn(recipe.seed, samples, epoch)


def drawn(seed: int, samples: int, epoch: int) -> NDArray[np.int64]:
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
