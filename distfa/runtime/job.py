"""The job that every worker of a run receives, and the data it reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distfa.codecs import CODECS, LOSSLESS, Codec, resolve
from distfa.core.base import order
from distfa.core.base.losses import LOSSES
from distfa.core.base.metrics import METRICS
from distfa.core.base.optim import SCHEDULE_SHAPES
from distfa.core.base.recipe import Recipe
from distfa.core.base.samples import Inputs, Targets
from distfa.core.routes import Direction, Kind, Link
from distfa.core.rules import RULES
from distfa.own.finding import is_path
from distfa.own.parts import Part, Parts
from distfa.transport.base import WireConfig
from distfa.transport.port import Traffic

Workers = tuple[tuple[int, ...], ...]
"""The layers of every worker, adjacent ones, from the lowest up."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run, as all its layers know it.

    Attributes:
        run_id: Unique name of the run.
        recipe: What is trained.
        wire: How layers talk.
        activation_codec: Codec of training activations.
        error_codec: Codec of error messages.
        train_rows: Size of the training set.
        test_rows: Size of the test set; 0 for none.
        device: ``cpu`` or ``cuda``.
        first: The step to begin with.
        stop: The step to end before; None for the end of the run.
        elapsed_seconds: How long training took before ``first``.
        workers: The layers of every worker, from the lowest up; empty: one layer each. It decides no bit. With replicas
            there are as many such workers for each.
    """

    run_id: str
    recipe: Recipe
    wire: WireConfig = WireConfig()
    activation_codec: str = LOSSLESS
    error_codec: str = LOSSLESS
    train_rows: int
    test_rows: int = 0
    device: str = "cpu"
    first: int = 0
    stop: int | None = None
    elapsed_seconds: float = 0.0
    workers: Workers = ()

    @cached_property
    def hosted(self) -> Workers:
        """The layers of every worker, those of the first replicas before those of the second."""
        return self._per_replica * self.recipe.replicas

    def worker_of(self, layer: int, replica: int = 0) -> int:
        """The worker that hosts a replica of a layer, counted from 1."""
        return self._worker_of[layer] + replica * len(self._per_replica)

    def replica_of(self, worker: int) -> int:
        """Which replica of its layers a worker hosts, counted from 0."""
        return (worker - 1) // len(self._per_replica)

    @cached_property
    def _per_replica(self) -> Workers:
        return self.workers or tuple((layer,) for layer in range(1, len(self.recipe.network) + 1))

    @cached_property
    def _worker_of(self) -> dict[int, int]:
        return {layer: worker for worker, layers in enumerate(self._per_replica, start=1) for layer in layers}

    @property
    def steps(self) -> int:
        """How many updates it makes."""
        last = order.count_steps(self.recipe, self.train_rows)
        return (last if self.stop is None else min(self.stop, last)) - self.first

    def own_parts(self) -> list[Part]:
        """The parts of the run that are not distfa's, which every worker must get.

        Raises:
            SpecError: One cannot be found.
        """
        named: list[tuple[Parts[Any], str]] = [(RULES, self.recipe.rule), (LOSSES, self.recipe.loss)]
        named += [(METRICS, name) for name in self.recipe.metrics]
        named += [(SCHEDULE_SHAPES, self.recipe.optimizer.schedule)]
        codecs = dict.fromkeys((self.activation_codec, self.error_codec))
        named += [(CODECS, name) for name in codecs if is_path(name) or name in CODECS.installed()]
        return [part for parts, name in named if (part := parts.part(name)) is not None]

    def dtype_of(self, link: Link) -> torch.dtype:
        """The dtype of what a link carries: gradients have that of the weights."""
        return self.recipe.dtype if link.direction is Direction.BESIDE else self.recipe.signal_dtype

    def codec(self, direction: Direction) -> Codec:
        """The codec of training signals in this direction."""
        name = self.activation_codec if direction is Direction.UP else self.error_codec
        return resolve(name, self.recipe.signal_dtype)


@dataclass(frozen=True, kw_only=True, eq=False)
class ResumeState:
    """Where a run goes on, if not at its start.

    Attributes:
        layers: The ``state_dict`` of every layer, by its number.
        books: The ``state_dict`` of the books.
        traffic: What every link had carried, by kind.
    """

    layers: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    books: dict[str, float] = field(default_factory=dict)
    traffic: dict[tuple[Link, Kind], Traffic] = field(default_factory=dict)


def is_lossy(job: Job) -> bool:
    """Whether a codec of the run rounds."""
    dtype = job.recipe.signal_dtype
    return not all(job.codec(direction).lossless(dtype) for direction in (Direction.UP, Direction.DOWN))


@dataclass(frozen=True, kw_only=True, eq=False)
class RawInputs:
    """The inputs of both splits as they are in memory: only the first layer gets them.

    Attributes:
        train: (N, d_0).
        test: (M, d_0).
        mean: (1,) or (d_0,), subtracted.
        std: As ``mean``, divided by.
        shape: Shape of one sample as the network takes it; None for flat samples.
        tokens: Whether inputs are integer tokens.
    """

    train: NDArray[Any]
    test: NDArray[Any]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    shape: tuple[int, ...] | None = None
    tokens: bool = False

    def readers(self, dtype: torch.dtype, device: torch.device) -> tuple[Inputs, Inputs]:
        """(train, test) readers."""
        train, test = (
            Inputs(
                raw,
                mean=self.mean,
                std=self.std,
                dtype=dtype,
                device=device,
                shape=self.shape,
                tokens=self.tokens,
            )
            for raw in (self.train, self.test)
        )
        return train, test


@dataclass(frozen=True, kw_only=True, eq=False)
class RawTargets:
    """The targets of both splits, (N,) or (N, T) labels or (N, C) floats; for layers with ``routes.reads_labels``."""

    train: NDArray[Any]
    test: NDArray[Any]

    def readers(self, dtype: torch.dtype, device: torch.device) -> tuple[Targets, Targets]:
        """(train, test) readers."""
        return Targets(self.train, dtype=dtype, device=device), Targets(self.test, dtype=dtype, device=device)
