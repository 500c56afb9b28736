"""A run over the nodes' links: how fast its steps follow each other, and what they put on the wire.

    python -m distfa.bench.link_run --spec JSON --warmup STEPS [--name NAME --owner PID]

The test set is left out, so that nothing but training crosses the links from the first step to the last.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distfa import data
from distfa.bench import namespaces
from distfa.bench.namespaces import Nodes
from distfa.bench.peers import launch
from distfa.core.records import StepRecord
from distfa.experiment.run import Progress
from distfa.experiment.subject import network_for
from distfa.experiment.run import run as train
from distfa.experiment.spec import RunSpec, parse

_SETTLE_SECONDS = 0.5  # from the output layer's last step until the lowest layer has had its errors


@dataclass(frozen=True, kw_only=True)
class LinkRun:
    """What a run of a few steps over the links came to.

    Attributes:
        steps: Updates made, warm-up included.
        samples_per_second: From the end of the warm-up.
        boundaries: Bytes of all steps per boundary: payload and message, up and down.
        sent_bytes: By every node's interface over all steps; empty without nodes.
    """

    steps: int
    samples_per_second: float
    boundaries: list[dict[str, int]]
    sent_bytes: dict[int, int]


def run(
    spec: RunSpec,
    *,
    warmup: int,
    nodes: Nodes | None,
    environment: Mapping[str, str] = os.environ,
    deadline_seconds: float,
) -> LinkRun:
    """Train by the spec, driven from the first node, or from this machine without nodes.

    Args:
        spec: Its ``max_steps`` is above ``warmup``.
        warmup: Steps before the measurement of speed begins.
        nodes: Where the layers are.
        environment: Of the driver.
        deadline_seconds: For the whole run.

    Raises:
        BenchError: It failed, or did not end in time.
    """
    name = f"distfa {spec.rule}, {spec.codec.activations}/{spec.codec.errors}"
    with tempfile.TemporaryDirectory() as scratch:  # here, so that it goes even if the driver has to be killed
        kept = spec.model_copy(update={"run_dir": str(Path(scratch) / "run")})
        command = [sys.executable, "-m", "distfa.bench.link_run", "--spec", kept.model_dump_json()]
        command += ["--warmup", str(warmup)]
        if nodes is not None:
            command = [*nodes.command(1), *command, "--name", nodes.name, "--owner", str(nodes.owner)]
        (report,) = launch(name, [command], environment=environment, deadline_seconds=deadline_seconds)
    sent = {int(node): count for node, count in report.pop("sent_bytes").items()}
    return LinkRun(**report, sent_bytes=sent)


def _drive(spec: RunSpec, *, warmup: int, name: str, owner: int) -> LinkRun:
    """Be the driver."""
    loaded = data.load(spec.data.name, directory=spec.data.dir, limit=spec.data.limit, hub=spec.data.hub)
    dataset = dataclasses.replace(loaded, test_x=loaded.test_x[:0], test_y=loaded.test_y[:0])
    steps: list[StepRecord] = []
    counted: list[dict[int, int]] = []

    def count() -> None:
        if name:
            counted.append(namespaces.sent_bytes(name, owner))

    def watch(progress: Progress) -> None:
        if progress.record is None:
            count()
        elif isinstance(progress.record, StepRecord):
            steps.append(progress.record)
            if len(steps) == progress.steps:
                time.sleep(_SETTLE_SECONDS)
                count()

    result, _ = train(spec, network_for(spec, dataset), dataset, observer=watch)
    sent = {node: total - counted[0][node] for node, total in counted[1].items()} if counted else {}
    return LinkRun(
        steps=result.steps,
        samples_per_second=_rate(steps, warmup),
        boundaries=result.bytes["boundaries"],
        sent_bytes=sent,
    )


def _rate(steps: Sequence[StepRecord], warmup: int) -> float:
    """Samples per second after the first ``warmup`` steps."""
    measured = steps[warmup:]
    return sum(step.rows for step in measured) / (measured[-1].seconds - steps[warmup - 1].seconds)


def main() -> None:
    """Be the driver as the arguments say; one JSON object on stdout."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--spec", required=True)
    parser.add_argument("--warmup", type=int, required=True)
    parser.add_argument("--name", default="")
    parser.add_argument("--owner", type=int, default=0)
    given: Any = parser.parse_args()
    found = _drive(parse(json.loads(given.spec)), warmup=given.warmup, name=given.name, owner=given.owner)
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()
