"""Loss and accuracy of the weights that a run saved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from distfa.core.base.samples import Split
from distfa.core.serial import evaluate_layers
from distfa.errors import DataError
from distfa.intake.checks import check_run
from distfa.intake.subject import raw_samples
from distfa.run.saved import load_saved


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How good the saved weights of a run are.

    Attributes:
        run_dir: The run.
        split: ``test`` or ``train``.
        rows: Number of samples.
        loss: Mean loss.
        accuracy: Share of correct labels, under ``bce`` of correct decisions; None for quantities.
        metrics: The figures of the run's metrics.
    """

    run_dir: str
    split: str
    rows: int
    loss: float
    accuracy: float | None
    metrics: dict[str, Any] = field(default_factory=dict)


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
        normalised: Whether the samples of ``arrays`` are already normalised; None: decided by their values.
        model: The module that was trained, if it was an object in Python; it is not changed.
        observer: Called, as it progresses, with how many samples are done, and of how many.

    Raises:
        RunDirError: There is no run, or it has no weights.
        DataError: The data set cannot be read, or the run was trained on arrays and none are given.
        SpecError: The run was trained on a model from Python and none is given.
    """
    run = load_saved(run_dir)
    given = run.own_data(data_dir) if arrays is None else arrays
    dataset = run.read(given, model, target=target, normalised=normalised)
    subject = run.subject(dataset, model)
    check_run(run.spec.model_copy(update={"init": "random"}), subject, dataset)
    wanted = split if arrays is None else "test" if len(dataset.test_x) else "train"
    recipe, layers = run.recipe, run.layers(subject)
    inputs, targets = raw_samples(run.network, dataset)
    which = 0 if wanted == "train" else 1
    samples = Split(
        inputs=inputs.readers(recipe.dtype, layers[0].device)[which],
        targets=targets.readers(recipe.dtype, layers[0].device)[which],
    )
    if not len(samples.inputs):
        raise DataError(f"data set {dataset.name!r} has no {wanted} samples; evaluate the other split")
    of = len(samples.inputs)
    score = evaluate_layers(recipe, layers, samples, tick=lambda done: observer(done, of))
    several = run.spec.loss == "bce" and not dataset.classification  # several labels per sample, each right or wrong
    answers = score.rows * (dataset.outputs if several else dataset.positions)
    accuracy = score.correct / answers if dataset.classification or several else None
    return Evaluation(
        run_dir=str(run.path),
        split="given" if arrays is not None else split,
        rows=score.rows,
        loss=score.loss,
        accuracy=accuracy,
        metrics=score.metrics(),
    )
