"""The Python API: train an ordinary ``nn.Sequential``, layer-parallel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from distfa import data
from distfa.core.split import split
from distfa.errors import SpecError
from distfa.experiment.result import Result
from distfa.experiment.run import Observer, run
from distfa.experiment.spec import RunSpec, load, parse


class Trainer:
    """Trains a model's layers, each in an actor of its own.

    Args:
        model: An ``nn.Sequential`` of Linear and activation modules. Its weights are drawn anew from the
            spec's seed, unless ``init`` is ``given``.
        spec: A ``RunSpec``, the path of a YAML spec, or None for the defaults.
        settings: Keys of the spec, dots written as double underscores: ``optimizer__lr=0.01``; or whole
            parts as dictionaries: ``optimizer={"name": "sgd", "lr": 0.01}``.

    Raises:
        ModelError: The model cannot be split into layers.
        SpecError: An unknown key, or a value that breaks a rule.

    Example:
        >>> model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
        >>> result = Trainer(model, rule="dfa", epochs=5).fit((x, y), (test_x, test_y))
    """

    def __init__(self, model: nn.Module, spec: RunSpec | str | Path | None = None, **settings: Any) -> None:
        self.model = model
        self.network = split(model)
        changes = [(key.replace("__", "."), value) for key, value in settings.items()]
        if isinstance(spec, RunSpec):
            merged = load(None, [*spec.model_dump().items(), *changes])
        else:
            merged = load(None if spec is None else Path(spec), changes)
        self.spec = merged

    def fit(self, train: Any, test: Any = None, *, observer: Observer = lambda progress: None) -> Result:
        """Train, and load the trained weights into the model.

        Args:
            train: (x, y) of arrays or tensors, a DataLoader-like iterable of batches (read once into
                memory; the run's own seeded order applies), or a ``distfa.data.Dataset``.
            test: As ``train``; None where ``train`` is a Dataset, or for no evaluation.
            observer: Called as the run goes on.

        Returns:
            The figures, and where the run is kept.

        Raises:
            DistfaError: Bad input, or the run failed.
        """
        dataset = train if isinstance(train, data.Dataset) else data.from_arrays(train, test)
        if isinstance(train, data.Dataset) and test is not None:
            raise SpecError("train is a Dataset, which has a test split of its own; leave test out")
        described = {"name": dataset.name} if dataset.name in data.NAMES else {"name": "arrays"}
        spec = parse({**self.spec.model_dump(), "data": described})
        result, weights = run(spec, self.network, dataset, given=self._given(), observer=observer)
        self.model.load_state_dict(weights)
        return result

    def _given(self) -> dict[int, tuple[torch.Tensor, torch.Tensor | None]]:
        if self.spec.init != "given":
            return {}
        state = self.model.state_dict()
        return {
            index: (state[f"{layer.key}.weight"], state.get(f"{layer.key}.bias"))
            for index, layer in enumerate(self.network.layers, start=1)
        }
