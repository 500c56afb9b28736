"""What every worker of a run is told, and the links between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distfa.codecs import LOSSLESS, Codec, resolve
from distfa.core import rules
from distfa.core.recipe import Recipe
from distfa.core.samples import Inputs, Targets
from distfa.transport.base import WireConfig
from distfa.transport.message import Direction, Link


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run, as all its layers know it.

    Attributes:
        run_id: Unique name of the run.
        recipe: What is trained.
        wire: How layers talk.
        activations: Codec of training activations.
        errors: Codec of error messages.
        train_rows: Size of the training set.
        test_rows: Size of the test set; 0 for none.
        device: ``cpu`` or ``cuda``.
    """

    run_id: str
    recipe: Recipe
    wire: WireConfig = WireConfig()
    activations: str = LOSSLESS
    errors: str = LOSSLESS
    train_rows: int
    test_rows: int = 0
    device: str = "cpu"

    def codec(self, direction: Direction) -> Codec:
        """The codec of training signals that travel this way."""
        name = self.activations if direction is Direction.UP else self.errors
        return resolve(name, self.recipe.signal_dtype)


def lossy(job: Job) -> bool:
    """Whether a codec of the run rounds."""
    dtype = job.recipe.signal_dtype
    return not all(job.codec(direction).lossless(dtype) for direction in (Direction.UP, Direction.DOWN))


def links(recipe: Recipe) -> tuple[Link, ...]:
    """Every link of a run: per boundary one up, and one down from the rule's origin, if it has one; and probes' two."""
    rule, sizes = rules.build(recipe), recipe.network.sizes
    up = [
        Link(boundary=b, direction=Direction.UP, sender=b, receiver=b + 1, columns=sizes[b])
        for b in recipe.network.boundaries
    ]
    down = [
        Link(boundary=b, direction=Direction.DOWN, sender=origin, receiver=b, columns=rule.width(b))
        for b in recipe.network.boundaries
        if (origin := rule.origin(b)) is not None
    ]
    probes = [
        Link(boundary=b, direction=way, sender=sender, receiver=receiver, columns=sizes[b])
        for b in recipe.network.boundaries
        for way, sender, receiver in ((Direction.PROBE_UP, b, b + 1), (Direction.PROBE_DOWN, b + 1, b))
        if recipe.probe_every
    ]
    return (*up, *down, *probes)


def reads_labels(recipe: Recipe, layer: int) -> bool:
    """Whether a layer is given the targets: the output layer, and all where the rule reads labels."""
    return layer == len(recipe.network) or rules.RULES[recipe.rule].reads_labels


@dataclass(frozen=True, kw_only=True, eq=False)
class RawInputs:
    """Inputs of both splits, as they lie in memory: only the first layer gets them.

    Attributes:
        train: (N, d_0).
        test: (M, d_0).
        mean: (1,) or (d_0,), subtracted.
        std: As ``mean``, divided by.
    """

    train: NDArray[Any]
    test: NDArray[Any]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    def readers(self, dtype: torch.dtype, device: torch.device) -> tuple[Inputs, Inputs]:
        """(train, test) readers."""
        return (
            Inputs(self.train, mean=self.mean, std=self.std, dtype=dtype, device=device),
            Inputs(self.test, mean=self.mean, std=self.std, dtype=dtype, device=device),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class RawTargets:
    """Targets of both splits, (N,) labels or (N, C) floats: only layers that ``reads_labels`` names get them."""

    train: NDArray[Any]
    test: NDArray[Any]

    def readers(self, dtype: torch.dtype, device: torch.device) -> tuple[Targets, Targets]:
        """(train, test) readers."""
        return Targets(self.train, dtype=dtype, device=device), Targets(self.test, dtype=dtype, device=device)
