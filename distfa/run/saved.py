"""The trained layers of a finished run, with data that are read as the run read its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from distfa.core.base.model import Network
from distfa.core.base.recipe import FeedbackConfig, Recipe
from distfa.core.layer import Layer
from distfa.core.rules import BASELINE, RULES
from distfa.data import Dataset
from distfa.data.reading import Reading
from distfa.errors import DataError, RunDirError, SpecError
from distfa.intake.given import Wish, dataset_of, floats_of
from distfa.intake.layout import layout_of
from distfa.intake.subject import Subject, subject_for, subject_of
from distfa.own import finding
from distfa.run.disk import run_dir as run_dirs
from distfa.run.disk.weights import read_weights, reading_of
from distfa.settings import ARRAYS, GIVEN, RunSpec


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A finished run.

    Attributes:
        path: The run directory.
        spec: Its spec, with rule bp unless its own divides the model: one of the user's need not be there.
        network: Its layers, as descriptions.
        reading: How it read its data; None if it does not say it.
    """

    path: Path
    spec: RunSpec
    network: Network
    reading: Reading | None

    @property
    def recipe(self) -> Recipe:
        """The recipe of its layers, with rule bp: forwards are alike under all rules."""
        return self.spec.model_copy(update={"rule": BASELINE}).recipe(self.network)

    def own_data(self, data_dir: str | None) -> Dataset:
        """The data set that it was trained on.

        Raises:
            DataError: It cannot be read, or consisted of arrays.
        """
        if self.spec.data.name == ARRAYS:
            raise DataError(
                "the run was trained on arrays from Python, which are not saved; evaluate it there with "
                "distfa.evaluate(run_dir, arrays=(x, y))"
            )
        return self.spec.data.load(data_dir)

    def read(self, given: Any, model: nn.Module | None, **wish: Any) -> Dataset:
        """Data in any form that ``fit`` takes, read as the run read its own.

        Args:
            given: The data.
            model: The module that was trained, if it is known.
            wish: More attributes of ``Wish``.

        Raises:
            DataError: They do not fit.
        """
        asked = Wish(
            epochs=0,
            seed=self.spec.seed,
            tokens=None if self.reading is None else self.reading.tokens,
            floats=floats_of(self.spec.loss),
            layout=None if model is None else layout_of(model),
            reading=self.reading,
            **wish,
        )
        named = self.spec.data.model_copy(update={"name": given}).load() if isinstance(given, str) else given
        return dataset_of(named, None, asked)

    def subject(self, dataset: Dataset, model: nn.Module | None) -> Subject:
        """The subject of the run: a network drawn from the seed, the model that is given, or the model of the spec.

        Raises:
            SpecError: It was an object in Python, and is not given.
        """
        if self.network.seeded:
            return Subject(network=self.network)
        if model is None and self.spec.model.name == GIVEN:
            raise SpecError(
                "the run was started from Python with a model object: use Trainer(model).load(run_dir) there, or "
                "pass it: distfa.evaluate(run_dir, model=model), distfa.predict(run_dir, samples, model=model)"
            )
        return subject_for(self.spec, dataset) if model is None else subject_of(model, self.spec, dataset)

    def layers(self, subject: Subject) -> list[Layer]:
        """Its layers, with the weights that it saved.

        Raises:
            RunDirError: There are no weights, or they do not fit.
        """
        weights, modules = read_weights(self.path), subject.modules
        layers = [Layer(self.recipe, number, module=modules.get(number)) for number in range(1, len(self.network) + 1)]
        try:
            for layer in layers:
                layer.block.load(weights)
        except (KeyError, RuntimeError) as exc:
            raise RunDirError(
                f"{self.path / run_dirs.WEIGHTS} does not fit the layers ({exc}); it is not the file that this "
                "run saved, or not for this model"
            ) from exc
        return layers


def load_saved(run_dir: str | Path) -> Saved:
    """A run from its directory.

    Raises:
        RunDirError: There is none.
    """
    path = run_dirs.expand_path(run_dir)
    about = run_dirs.read_about(path)
    spec = run_dirs.read_spec(path, about)
    divides = spec.rule in RULES and RULES[spec.rule].follows_shortcuts  # its layers end where the stream does
    rule = spec.rule if divides else BASELINE
    spec = spec.model_copy(update={"rule": rule, "feedback": FeedbackConfig()})
    finding.also_look_in(about.get("folder") or "")
    network = replace(run_dirs.read_network(about), continued=False)
    return Saved(path=path, spec=spec, network=network, reading=reading_of(about))
