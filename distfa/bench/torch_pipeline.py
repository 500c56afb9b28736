"""The peer in several processes: torch.distributed.pipelining over gloo, one stage of the network per process.

    python -m distfa.bench.torch_pipeline --spec JSON --pipeline JSON --rank R --meeting FILE ...

Every process reads the data set and follows the run's seeded order, as distfa's layers do; stages send activations
up and gradients down. The processes meet through a file, so no port has to be free, and processes in different
network namespaces of one machine find each other; gloo then listens on the interface it is given.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from distfa.bench.machine import cores
from distfa.bench.peers import launch
from distfa.bench.steady import Steady
from distfa.errors import BenchError
from distfa.experiment.spec import RunSpec, parse

SCHEDULES: tuple[str, ...] = ("gpipe", "1f1b")


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """How a network is spread and worked through.

    Attributes:
        processes: Stages; layers are shared among them in order, as evenly as can be.
        schedule: ``gpipe`` or ``1f1b``.
        micro_batches: Equal parts of a batch.
        interfaces: Network interface of every process, or one for all.
        prefixes: What to put before the command of every process, such as ``("ip", "netns", "exec", "n0")``;
            empty for nothing.
    """

    processes: int
    schedule: str = "gpipe"
    micro_batches: int = 1
    interfaces: Sequence[str] = ("lo",)
    prefixes: Sequence[Sequence[str]] = field(default=())

    @property
    def name(self) -> str:
        """For tables and messages."""
        return f"torch {self.schedule}, {self.processes} processes, M={self.micro_batches}"

    @property
    def threads(self) -> int:
        """Of every process: an even share of the cores, at least 1."""
        return max(1, cores() // self.processes)

    def stages(self, layers: int) -> list[range]:
        """The layers of every process, counted from 1."""
        ends = [1 + layers * i // self.processes for i in range(self.processes + 1)]
        return [range(start, end) for start, end in itertools.pairwise(ends)]


@dataclass(frozen=True, kw_only=True)
class PipelineRun:
    """What a run of a pipeline came to.

    Attributes:
        steps: Updates made.
        losses: Before every update.
        evaluations: ``step``, ``loss`` and ``accuracy`` on the test set, and ``seconds`` of training until then,
            evaluations left out.
        payload_bytes: Of the numbers in the activations and gradients sent in training, both ways over all
            boundaries, by their shapes.
        steady: From the end of the warm-up; None for a run to a target, which stops to evaluate.
    """

    steps: int
    losses: list[float]
    evaluations: list[dict[str, float]]
    payload_bytes: int
    steady: Steady | None

    def measured(self) -> Steady:
        """The steady state, of a run that was not to a target.

        Raises:
            BenchError: It was.
        """
        if self.steady is None:
            raise BenchError("a run to a target accuracy has no steady state; leave target_accuracy out to measure one")
        return self.steady


def run(
    spec: RunSpec,
    pipeline: Pipeline,
    *,
    warmup: int = 1,
    target_accuracy: float | None = None,
    deadline_seconds: float,
    environment: Mapping[str, str] = os.environ,
) -> PipelineRun:
    """Train by the spec, one process per stage.

    Batches of fewer than ``spec.batch_size`` rows are left out: a pipeline's shapes are fixed.

    Args:
        spec: Its rule, engine and micro-batches are not used: this is backpropagation by ``pipeline``.
        pipeline: The processes.
        warmup: Steps before the measurement begins, at least 1.
        target_accuracy: Stop at the first evaluation that reaches it; the test set is then evaluated where the spec
            says. None to train to the end and never evaluate.
        deadline_seconds: For the whole run.
        environment: Of the processes.

    Raises:
        BenchError: It cannot be run so, failed, or did not end in time.
    """
    check(spec, pipeline)
    with tempfile.TemporaryDirectory() as folder:
        commands = []
        for rank in range(pipeline.processes):
            prefix = pipeline.prefixes[rank] if pipeline.prefixes else ()
            command = [*prefix, sys.executable, "-m", "distfa.bench.torch_pipeline", "--rank", str(rank)]
            command += ["--spec", spec.model_dump_json(), "--pipeline", json.dumps(asdict(pipeline))]
            command += ["--meeting", str(Path(folder) / "meeting"), "--warmup", str(warmup)]
            command += ["--deadline", str(deadline_seconds)]
            command += [] if target_accuracy is None else ["--target", str(target_accuracy)]
            commands.append(command)
        reports = launch(pipeline.name, commands, environment=environment, deadline_seconds=deadline_seconds)
    last = reports[-1]
    return PipelineRun(
        steps=last["steps"],
        losses=last["losses"],
        evaluations=last["evaluations"],
        payload_bytes=sum(report["payload_bytes"] for report in reports),
        steady=None if last["steady"] is None else _together([report["steady"] for report in reports]),
    )


def check(spec: RunSpec, pipeline: Pipeline) -> None:
    """Refuse what cannot be run.

    Raises:
        BenchError: The processes, micro-batches, interfaces or prefixes do not fit the network or each other.
    """
    layers, processes = len(spec.model.hidden) + 1, pipeline.processes
    if pipeline.schedule not in SCHEDULES:
        raise BenchError(f"schedule {pipeline.schedule!r} is not one of {', '.join(SCHEDULES)}")
    if not 2 <= processes <= layers:
        raise BenchError(
            f"a pipeline of {processes} processes cannot be made of {layers} layers; take 2 to {layers} processes"
        )
    if pipeline.schedule == "1f1b" and pipeline.micro_batches < processes:
        raise BenchError(
            f"torch's 1f1b needs at least as many micro-batches as processes, not {pipeline.micro_batches} for "
            f"{processes}; take more micro-batches or gpipe"
        )
    if spec.batch_size % pipeline.micro_batches:
        raise BenchError(
            f"a batch of {spec.batch_size} rows has no {pipeline.micro_batches} equal parts, which a pipeline needs; "
            "choose micro-batches that divide the batch size"
        )
    if len(pipeline.interfaces) not in (1, processes):
        raise BenchError(f"{len(pipeline.interfaces)} interfaces for {processes} processes; give one, or one for each")
    if pipeline.prefixes and len(pipeline.prefixes) != processes:
        raise BenchError(f"{len(pipeline.prefixes)} command prefixes for {processes} processes; give one for each")


def _together(parts: Sequence[Mapping[str, float]]) -> Steady:
    """The pipeline's steady state from its stages': the last one's clock, everyone's CPU time."""
    last = parts[-1]
    own = sum(part["cpu_seconds"] for part in parts)
    siblings = (own - last["cpu_seconds"]) * last["samples_per_second"] / 1000  # cores that the other stages took
    return Steady(
        samples_per_second=last["samples_per_second"],
        cpu_seconds=own,
        busy=last["busy"],
        others=max(0.0, last["others"] - siblings / cores()),
    )


def main() -> None:
    """Be one stage, as the arguments say; one JSON object on stdout."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--spec", required=True)
    parser.add_argument("--pipeline", required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--meeting", required=True)
    parser.add_argument("--warmup", type=int, required=True)
    parser.add_argument("--target", type=float)
    parser.add_argument("--deadline", type=float, required=True)
    given = parser.parse_args()
    from distfa.bench import torch_stage  # loads torch's pipelining, which a parent does not need

    report: dict[str, Any] = torch_stage.run(
        parse(json.loads(given.spec)),
        Pipeline(**json.loads(given.pipeline)),
        rank=given.rank,
        meeting=given.meeting,
        warmup=given.warmup,
        target_accuracy=given.target,
        deadline_seconds=given.deadline,
    )
    print(json.dumps(report))


if __name__ == "__main__":
    main()
