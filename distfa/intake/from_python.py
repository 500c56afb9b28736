"""Runs whose model or data were objects in Python: what the command line cannot do, and what to do instead."""

from __future__ import annotations

from pathlib import Path

from distfa.errors import SpecError
from distfa.settings import ARRAYS, GIVEN, RunSpec


def require_from_spec(spec: RunSpec, *, resume: Path | None = None) -> None:
    """Refuse a spec that does not contain everything: that of a run from Python.

    Args:
        spec: The spec.
        resume: The directory of the run that is to continue with it.

    Raises:
        SpecError: Its model or its data were objects in Python.
    """
    if not is_from_python(spec.model.name, spec.data.name):
        return
    what, where = ("model", "an object") if spec.model.name == GIVEN else ("data", "arrays, which are not saved")
    said = f"the spec is from a run started in Python, whose {what} were {where} there"
    if resume is not None:
        raise SpecError(f"{said}: resume it there, with {how_to_go_on(resume, spec.model.name, spec.data.name)}")
    if spec.model.name == GIVEN:
        raise SpecError(
            "the spec is from a run started in Python with a model object: train it there with "
            "distfa.Trainer(model, spec), or write a function that creates the model and set "
            "model.name=package.module:function"
        )
    raise SpecError(
        "the spec is from a run started in Python with arrays, which are not saved: train it there with "
        "distfa.Trainer(model, spec).fit((x, y)), or save them as an .npz file and set data.name=npz and data.dir"
    )


def how_to_go_on(run_dir: Path, model: str, data: str) -> str:
    """How the user goes on with a run, in words.

    Args:
        run_dir: Its directory.
        model: ``model.name`` of its spec.
        data: ``data.name`` of its spec.
    """
    if is_from_python(model, data):
        return f"Trainer(model, ...).fit(train, test, resume={str(run_dir)!r})"
    return f"distfa train --resume {run_dir}"


def is_from_python(model: str, data: str) -> bool:
    """Whether a run's model or data were objects in Python."""
    return model == GIVEN or data == ARRAYS
