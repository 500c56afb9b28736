"""torch's own engines for comparison: one process, or a pipeline of stages (torch.distributed.pipelining over gloo).

Every process reads the data set and follows the run's seeded order, as distfa's layers do; stages send activations up
and gradients down. They find each other through a file, so no port has to be free, and it also works across network
namespaces of one machine; gloo then listens on the interface that it is given.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from distfa.bench import torch_training
from distfa.bench.torch_training import Pipeline
from distfa.errors import BenchError
from distfa.measuring.machine import cores
from distfa.measuring.steady_state import SteadyState
from distfa.measuring.subprocesses import command, launch
from distfa.settings import RunSpec

SCHEDULES: tuple[str, ...] = ("gpipe", "1f1b")


@dataclass(frozen=True, kw_only=True)
class TorchRun:
    """The measurements of a run.

    Attributes:
        losses: The loss before every update.
        steady: The steady state, from the end of the warm-up.
        payload_bytes: Bytes of numbers in the activations and gradients sent, in both directions over all boundaries,
            from their shapes.
    """

    losses: list[float]
    steady: SteadyState
    payload_bytes: int = 0


def run_single(spec: RunSpec, *, threads: int, warmup: int, deadline_seconds: float) -> TorchRun:
    """Train a spec in one process.

    Args:
        spec: Its rule and engine are not used: this is backpropagation.
        threads: How many threads torch uses.
        warmup: Steps before the measurement begins, at least 1.
        deadline_seconds: Longest time for the whole run.

    Raises:
        BenchError: The run failed, or did not end in time.
    """
    name = f"torch in one process ({threads} threads)"
    line = command(torch_training.single, spec=spec.model_dump(mode="json"), threads=threads, warmup=warmup)
    (report,) = launch(name, [line], deadline_seconds=deadline_seconds)
    return TorchRun(losses=report["losses"], steady=SteadyState(**report["steady"]))


def run_pipeline(spec: RunSpec, pipeline: Pipeline, *, warmup: int = 1, deadline_seconds: float) -> TorchRun:
    """Train by the spec to the end, one process per stage.

    Batches of fewer than ``spec.batch_size`` rows are left out: a pipeline's shapes are fixed.

    Args:
        spec: Its rule, engine and micro-batches are not used: this is backpropagation by ``pipeline``.
        pipeline: The processes.
        warmup: Steps before the measurement begins, at least 1.
        deadline_seconds: Longest time for the whole run.

    Raises:
        BenchError: It cannot be run so, failed, or did not end in time.
    """
    check(spec, pipeline)
    common = {"spec": spec.model_dump(mode="json"), "pipeline": asdict(pipeline), "warmup": warmup}
    with tempfile.TemporaryDirectory() as folder:
        common |= {"meeting": f"{folder}/meeting", "deadline_seconds": deadline_seconds}
        commands = [
            [*prefix, *command(torch_training.stage, rank=rank, **common)]
            for rank, prefix in enumerate(pipeline.prefixes or [()] * pipeline.processes)
        ]
        reports = launch(pipeline.name, commands, deadline_seconds=deadline_seconds)
    return TorchRun(
        losses=reports[-1]["losses"],
        steady=_together([report["steady"] for report in reports]),
        payload_bytes=sum(report["payload_bytes"] for report in reports),
    )


def check(spec: RunSpec, pipeline: Pipeline) -> None:
    """Refuse what cannot be run.

    Raises:
        BenchError: The processes, micro-batches or prefixes do not fit the network or each other.
    """
    layers, processes = pipeline.layers, pipeline.processes
    if pipeline.schedule not in SCHEDULES:
        raise BenchError(f"schedule {pipeline.schedule!r} is not one of {', '.join(SCHEDULES)}")
    if not 2 <= processes <= layers:
        raise BenchError(
            f"a pipeline of {processes} processes cannot be made of {layers} layers; use 2 to {layers} processes"
        )
    if pipeline.schedule == "1f1b" and pipeline.micro_batches < processes:
        raise BenchError(
            f"torch's 1f1b needs at least as many micro-batches as processes, not {pipeline.micro_batches} for "
            f"{processes}; use more micro-batches or gpipe"
        )
    if spec.batch_size % pipeline.micro_batches:
        raise BenchError(
            f"a batch of {spec.batch_size} rows cannot be split into {pipeline.micro_batches} equal parts, as a "
            "pipeline needs; choose a number of micro-batches that divides the batch size"
        )
    if pipeline.prefixes and len(pipeline.prefixes) != processes:
        raise BenchError(f"{len(pipeline.prefixes)} command prefixes for {processes} processes; give one for each")


def _together(parts: Sequence[Mapping[str, float]]) -> SteadyState:
    """The pipeline's steady state from its stages': the last one's clock, everyone's CPU time."""
    last = parts[-1]
    own = sum(part["cpu_seconds"] for part in parts)
    siblings = (own - last["cpu_seconds"]) * last["samples_per_second"] / 1000  # cores that the other stages took
    return SteadyState(
        samples_per_second=last["samples_per_second"],
        cpu_seconds=own,
        busy=last["busy"],
        others=max(0.0, last["others"] - siblings / cores()),
    )
