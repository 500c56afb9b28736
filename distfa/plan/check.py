"""A prediction held against the same run made on this machine, on Ray."""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from distfa.core.network import Network
from distfa.core.records import StepRecord
from distfa.data import Dataset
from distfa.experiment.run import Progress, run
from distfa.experiment.spec import RunSpec, parse

_WARM_UP_STEPS = 10


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a real run came to, without what a plan leaves out: ledger, probes, evaluation.

    Attributes:
        median_seconds: Of the clock, of single steps; some to warm up are left out of everything.
        mean_seconds: The same, all of them together.
        core_seconds: Of processor time of all layers' processes, per step; reports come a few times a second, so
            it is low for runs of less than seconds, and 0 where the processes are not on this machine.
        steps: How many were made.
    """

    median_seconds: float
    mean_seconds: float
    core_seconds: float
    steps: int


def measure(spec: RunSpec, network: Network, dataset: Dataset, steps: int) -> Measured:
    """Make the run.

    Args:
        spec: The run.
        network: Its network.
        dataset: Its data; only the training half is used.
        steps: To be timed, after some to warm up.
    """
    ends: list[float] = []
    spent: list[float] = []
    total = steps + _WARM_UP_STEPS

    def observe(progress: Progress) -> None:
        if isinstance(progress.record, StepRecord):
            ends.append(progress.record.seconds)
            if len(ends) in (_WARM_UP_STEPS, total):
                spent.append(_layers_core_seconds())

    raw = spec.model_dump(mode="json")
    with tempfile.TemporaryDirectory() as scratch:
        raw |= {
            "engine": "ray",
            "ledger": {"every": 0},
            "probe": {"every": 0},
            "max_steps": total,
            "epochs": 1 + total * spec.batch_size // len(dataset.train_x),
            "log_every": total,
            "run_dir": str(Path(scratch) / "run"),
        }
        trained = replace(dataset, test_x=dataset.test_x[:0], test_y=dataset.test_y[:0])
        run(parse(raw), network, trained, observer=observe)
    lengths = [b - a for a, b in zip(ends[_WARM_UP_STEPS - 1 :], ends[_WARM_UP_STEPS:], strict=False)]
    return Measured(
        median_seconds=statistics.median(lengths),
        mean_seconds=statistics.fmean(lengths),
        core_seconds=(spent[-1] - spent[0]) / steps,
        steps=len(lengths),
    )


def _layers_core_seconds() -> float:
    """Processor time of this machine's layer processes that this process started, so far."""
    spent = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            if any("LayerActor" in part for part in process.cmdline()):
                times = process.cpu_times()
                spent += times.user + times.system
        except psutil.NoSuchProcess:
            continue
    return spent
