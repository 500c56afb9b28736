"""torch in several processes: torch.distributed.pipelining over gloo, one stage of the network per process.

Every process reads the data set and follows the run's seeded order, as distfa's layers do; stages send activations
up and gradients down. The processes meet through a file, so no port has to be free, and processes in different
network namespaces of one machine find each other; gloo then listens on the interface it is given.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from distfa.bench.machine import cores
from distfa.bench.steady_state import Steady
from distfa.bench.subprocesses import command, launch
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
        interface: Network interface of every process.
        prefixes: What to put before the command of every process, such as ``("ip", "netns", "exec", "n0")``;
            empty for nothing.
    """

    processes: int
    schedule: str = "gpipe"
    micro_batches: int = 1
    interface: str = "lo"
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
        payload_bytes: Of the numbers in the activations and gradients sent, both ways over all boundaries, by their
            shapes.
        steady: From the end of the warm-up.
    """

    steps: int
    losses: list[float]
    payload_bytes: int
    steady: Steady


def run(spec: RunSpec, pipeline: Pipeline, *, warmup: int = 1, deadline_seconds: float) -> PipelineRun:
    """Train by the spec to the end, one process per stage.

    Batches of fewer than ``spec.batch_size`` rows are left out: a pipeline's shapes are fixed.

    Args:
        spec: Its rule, engine and micro-batches are not used: this is backpropagation by ``pipeline``.
        pipeline: The processes.
        warmup: Steps before the measurement begins, at least 1.
        deadline_seconds: For the whole run.

    Raises:
        BenchError: It cannot be run so, failed, or did not end in time.
    """
    check(spec, pipeline)
    with tempfile.TemporaryDirectory() as folder:
        common = {"spec": spec.model_dump(mode="json"), "pipeline": asdict(pipeline), "warmup": warmup}
        common |= {"meeting": str(Path(folder) / "meeting"), "deadline_seconds": deadline_seconds}
        prefixes = pipeline.prefixes or [()] * pipeline.processes
        commands = [[*prefix, *command(_stage, rank=rank, **common)] for rank, prefix in enumerate(prefixes)]
        reports = launch(pipeline.name, commands, deadline_seconds=deadline_seconds)
    return PipelineRun(
        steps=len(reports[-1]["losses"]),
        losses=reports[-1]["losses"],
        payload_bytes=sum(report["payload_bytes"] for report in reports),
        steady=_together([report["steady"] for report in reports]),
    )


def check(spec: RunSpec, pipeline: Pipeline) -> None:
    """Refuse what cannot be run.

    Raises:
        BenchError: The processes, micro-batches or prefixes do not fit the network or each other.
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


def _stage(*, spec: dict[str, Any], pipeline: dict[str, Any], **rest: Any) -> dict[str, Any]:
    """In a process of its own."""
    from distfa.bench import torch_stage  # loads torch's pipelining, which a parent does not need

    return torch_stage.run(parse(spec), Pipeline(**pipeline), **rest)
