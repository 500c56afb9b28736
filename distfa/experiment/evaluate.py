"""Loss and accuracy of the weights a run saved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distfa import data
from distfa.core.layer import Layer
from distfa.core.serial import evaluate
from distfa.core.steps import Split
from distfa.errors import DataError, RunDirError
from distfa.experiment import run_dir as run_dirs
from distfa.experiment.run import check
from distfa.experiment.spec import RunSpec, load
from distfa.runtime.job import RawInputs, RawTargets


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What the saved weights of a run come to.

    Attributes:
        run_dir: The run.
        split: ``test`` or ``train``.
        rows: Samples.
        loss: Mean.
        accuracy: None for float targets.
    """

    run_dir: str
    split: str
    rows: int
    loss: float
    accuracy: float | None


def evaluate_run(
    run_dir: str | Path, *, split: str = "test", data_dir: str | None = None, arrays: Any = None
) -> Evaluation:
    """Evaluate a finished run.

    Args:
        run_dir: The run directory.
        split: ``test`` or ``train`` of the data set the run was trained on.
        data_dir: Where that data set lies now, if elsewhere than then.
        arrays: (x, y) or an iterable of batches instead.

    Raises:
        RunDirError: No run there, or it has no weights.
        DataError: The data set cannot be read, or the run was trained on arrays and none are given.
    """
    path = run_dirs.located(run_dir)
    about, spec = run_dirs.read_about(path), load(path / run_dirs.SPEC)
    network, weights = run_dirs.read_network(about), run_dirs.read_weights(path)
    dataset = data.from_arrays(arrays) if arrays is not None else _dataset(spec, data_dir)
    check(spec.model_copy(update={"init": "random"}), network, dataset, None)
    wanted = "train" if arrays is not None else split
    recipe = spec.recipe(network)
    try:
        layers = [
            Layer(recipe, index, given=(weights[f"{layer.key}.weight"], weights.get(f"{layer.key}.bias")))
            for index, layer in enumerate(network.layers, start=1)
        ]
    except KeyError as exc:
        raise RunDirError(f"{path / run_dirs.WEIGHTS} has no {exc}; it is not the file this run saved") from exc
    inputs = RawInputs(train=dataset.train_x, test=dataset.test_x, mean=dataset.mean, std=dataset.std)
    targets = RawTargets(train=dataset.train_y, test=dataset.test_y)
    which = 0 if wanted == "train" else 1
    samples = Split(
        inputs=inputs.readers(recipe.dtype, layers[0].device)[which],
        targets=targets.readers(recipe.dtype, layers[0].device)[which],
    )
    if not len(samples.inputs):
        raise DataError(f"data set {dataset.name!r} has no {wanted} samples; evaluate the other split")
    loss, correct, rows = evaluate(layers, samples)
    accuracy = correct / rows if dataset.classification else None
    return Evaluation(
        run_dir=str(path),
        split="given" if arrays is not None else split,
        rows=rows,
        loss=loss,
        accuracy=accuracy,
    )


def _dataset(spec: RunSpec, data_dir: str | None) -> data.Dataset:
    if spec.data.name == "arrays":
        raise DataError(
            "the run was trained on arrays from Python, which are not saved; evaluate it there with "
            "distfa.evaluate(run_dir, arrays=(x, y))"
        )
    return data.load(spec.data.name, directory=data_dir or spec.data.dir, limit=spec.data.limit, hub=spec.data.hub)
