"""Runs by a spec on its own data and model, and runs whose directory is not kept."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from distfa.data import Dataset
from distfa.intake.subject import subject_for
from distfa.run.result import Result
from distfa.run.run import run
from distfa.settings import RunSpec


def run_spec(spec: RunSpec, dataset: Dataset, **how: Any) -> tuple[Result, dict[str, Tensor]]:
    """Carry out the run of a spec; ``how``, the answer and the errors are those of ``run``."""
    subject = subject_for(spec, dataset)
    return run(spec, subject.network, dataset, model=subject.model, division=subject.division, **how)


def run_in_scratch(
    spec: RunSpec, dataset: Dataset, *, look: Callable[[Path], None] = lambda run_dir: None, **how: Any
) -> tuple[Result, dict[str, Tensor]]:
    """``run_spec`` in a run directory that is removed afterwards; ``look`` is called with it before that."""
    with tempfile.TemporaryDirectory() as scratch:
        run_dir = Path(scratch) / "run"
        done = run_spec(spec.model_copy(update={"run_dir": str(run_dir)}), dataset, **how)
        look(run_dir)
        return done
