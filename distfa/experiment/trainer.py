"""The Python API: train an ordinary ``nn.Sequential``, layer-parallel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from distfa import data
from distfa.core.admit import admit, require_sequential
from distfa.core.model import Network
from distfa.core.split import group
from distfa.errors import SpecError
from distfa.experiment.result import Result
from distfa.experiment.run import Observer, run
from distfa.experiment.spec import ARRAYS, GIVEN, RunSpec, load, parse
from distfa.experiment.subject import subject_of


class Trainer:
    """Trains a model's layers, each in an actor of its own.

    Args:
        model: An ``nn.Sequential`` of any modules. A layer is a module with parameters and what follows it without any;
            ``distfa.split(model, sample_shape)`` shows them. Training starts from the model's own weights; a network
            of nothing but Linears and activations has its weights drawn from the spec's seed, unless ``init`` is
            ``given``.
        spec: A ``RunSpec``, the path of a YAML spec, or None for the defaults.
        settings: Keys of the spec, dots written as double underscores: ``optimizer__lr=0.01``; or whole
            parts as dictionaries: ``optimizer={"name": "sgd", "lr": 0.01}``.

    Attributes:
        network: The layers, once the shape of a sample is known, which is when ``fit`` has been called.

    Raises:
        ModelError: The model cannot be split into layers, or would be trained as something else.
        SpecError: An unknown key, or a value that breaks a rule.

    Example:
        >>> model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
        >>> result = Trainer(model, rule="dfa", epochs=5).fit((x, y), (test_x, test_y))
    """

    def __init__(self, model: nn.Module, spec: RunSpec | str | Path | None = None, **settings: Any) -> None:
        self.model = require_sequential(model)
        admit(self.model, group(self.model))
        self.network: Network | None = None
        changes = [(key.replace("__", "."), value) for key, value in settings.items()]
        if isinstance(spec, RunSpec):
            merged = load(None, [*spec.model_dump().items(), *changes])
        else:
            merged = load(None if spec is None else Path(spec), changes)
        self.spec = merged

    def fit(
        self,
        train: Any,
        test: Any = None,
        *,
        observer: Observer = lambda progress: None,
        resume: str | Path | None = None,
    ) -> Result:
        """Train, and load the trained weights and running statistics into the model.

        Args:
            train: (x, y) of arrays or tensors, a DataLoader-like iterable of batches (read once into
                memory; the run's own seeded order applies), or a ``distfa.data.Dataset``. Integers for a model that
                begins with an Embedding are its tokens.
            test: As ``train``; None where ``train`` is a Dataset, or for no evaluation.
            observer: Called as the run goes on.
            resume: The directory of a run of this model on these data that ended early; it goes on from its last
                checkpoint.

        Returns:
            The figures, and where the run is kept.

        Raises:
            DistfaError: Bad input, or the run failed; the model is then as it was.
        """
        if isinstance(train, data.Dataset) and test is not None:
            raise SpecError("train is a Dataset, which has a test split of its own; leave test out")
        dataset = train if isinstance(train, data.Dataset) else self._dataset(train, test)
        described = {"name": dataset.name} if dataset.name in data.NAMES else {"name": ARRAYS}
        spec = parse({**self.spec.model_dump(), "data": described, "model": {"name": GIVEN}})
        subject = subject_of(self.model, spec, dataset)
        self.network = subject.network
        result, weights = run(
            spec,
            subject.network,
            dataset,
            model=subject.model,
            observer=observer,
            resume=None if resume is None else Path(resume),
        )
        self.model.load_state_dict(weights)
        return result

    def _dataset(self, train: Any, test: Any) -> data.Dataset:
        _, first = next(iter(self.model.named_children()))
        embedding = next((m for m in first.modules() if isinstance(m, nn.Embedding)), None)
        tokens = None if embedding is None else embedding.num_embeddings
        return data.from_arrays(train, test, tokens=tokens)
