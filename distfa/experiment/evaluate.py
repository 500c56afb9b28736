"""Loss and accuracy of the weights that a run saved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from distfa import data
from distfa.core.layer import Layer
from distfa.core.model import Network
from distfa.core.samples import Split
from distfa.core.serial import evaluate
from distfa.errors import DataError, RunDirError
from distfa.experiment import run_dir as run_dirs
from distfa.experiment.checks import check
from distfa.experiment.given import Wish, dataset_of
from distfa.experiment.layout import layout_of
from distfa.experiment.spec import ARRAYS, RunSpec
from distfa.experiment.subject import Subject, raw_samples, subject_for, subject_of
from distfa.experiment.weights import read_weights, reading_of
from distfa.models import user


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How good the saved weights of a run are.

    Attributes:
        run_dir: The run.
        split: ``test`` or ``train``.
        rows: Number of samples.
        loss: Mean loss.
        accuracy: Share of correct labels; None for float targets.
    """

    run_dir: str
    split: str
    rows: int
    loss: float
    accuracy: float | None


def evaluate_run(
    run_dir: str | Path,
    *,
    split: str = "test",
    data_dir: str | None = None,
    arrays: Any = None,
    target: str | None = None,
    normalised: bool | None = None,
    model: nn.Module | None = None,
    observer: Callable[[int, int], None] = lambda done, rows: None,
) -> Evaluation:
    """Evaluate a finished run.

    Args:
        run_dir: The run directory.
        split: ``test`` or ``train``, of the data set that the run was trained on.
        data_dir: Where that data set is now, if it has moved.
        arrays: Data in any form that ``Trainer.fit`` takes, to use instead; they are read as the run read its own.
        target: The column of a table that was learned, if the run does not say it.
        normalised: Whether the samples of ``arrays`` are normalised already; None: as their numbers say.
        model: The module that was trained, if it was an object in Python; it is not changed.
        observer: Called as it goes on with how many samples are done, and of how many.

    Raises:
        RunDirError: There is no run, or it has no weights.
        DataError: The data set cannot be read, or the run was trained on arrays and none are given.
        SpecError: The run was trained on a model from Python and none is given.
    """
    path = run_dirs.located(run_dir)
    about = run_dirs.read_about(path)
    spec = run_dirs.read_spec(path, about)
    user.also_look_in(about.get("folder") or "")
    network, weights = replace(run_dirs.read_network(about), continued=False), read_weights(path)
    reading = reading_of(about)
    wish = Wish(
        epochs=0,
        seed=spec.seed,
        tokens=None if reading is None else reading.tokens,
        target=target,
        floats=spec.loss in ("mse", "bce"),
        layout=None if model is None else layout_of(model),
        reading=reading,
        normalised=normalised,
    )
    dataset = dataset_of(_dataset(spec, data_dir) if arrays is None else arrays, None, wish)
    subject = _subject(spec, network, dataset, model)
    check(spec.model_copy(update={"init": "random"}), subject, dataset)
    wanted = split if arrays is None else "test" if len(dataset.test_x) else "train"
    recipe, modules = spec.recipe(network), subject.modules
    layers = [Layer(recipe, number, module=modules.get(number)) for number in range(1, len(network) + 1)]
    try:
        for layer in layers:
            layer.block.load(weights)
    except (KeyError, RuntimeError) as exc:
        raise RunDirError(
            f"{path / run_dirs.WEIGHTS} does not fit the layers ({exc}); it is not the file this run saved, or not of "
            "this model"
        ) from exc
    inputs, targets = raw_samples(network, dataset)
    which = 0 if wanted == "train" else 1
    samples = Split(
        inputs=inputs.readers(recipe.dtype, layers[0].device)[which],
        targets=targets.readers(recipe.dtype, layers[0].device)[which],
    )
    if not len(samples.inputs):
        raise DataError(f"data set {dataset.name!r} has no {wanted} samples; evaluate the other split")
    of = len(samples.inputs)
    loss, correct, rows = evaluate(recipe, layers, samples, tick=lambda done: observer(done, of))
    accuracy = correct / (rows * dataset.positions) if dataset.classification else None
    return Evaluation(
        run_dir=str(path),
        split="given" if arrays is not None else split,
        rows=rows,
        loss=loss,
        accuracy=accuracy,
    )


def _subject(spec: RunSpec, network: Network, dataset: data.Dataset, model: nn.Module | None) -> Subject:
    """What was trained: a network drawn from the seed, the model that is given, or the model of the spec."""
    if network.seeded:
        return Subject(network=network)
    return subject_for(spec, dataset) if model is None else subject_of(model, spec, dataset)


def _dataset(spec: RunSpec, data_dir: str | None) -> data.Dataset:
    if spec.data.name == ARRAYS:
        raise DataError(
            "the run was trained on arrays from Python, which are not saved; evaluate it there with "
            "distfa.evaluate(run_dir, arrays=(x, y))"
        )
    return spec.data.load(data_dir)
