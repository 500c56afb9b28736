"""Predicts a run on a described cluster: step time, bytes, memory, and what keeps it from being faster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from distfa.codecs import LOSSLESS
from distfa.core.base.recipe import FeedbackConfig
from distfa.core.routes import Direction, links
from distfa.core.rules import BASELINE
from distfa.costs.layer_memory import LayerMemory, memory_by_layer, training_links
from distfa.plan.bottleneck import bottleneck
from distfa.plan.build import Setting, build_pipeline, build_stages
from distfa.plan.queues import Wires
from distfa.plan.simulate import SimulatedStep, Simulation
from distfa.plan.stages import Channel
from distfa.runtime.job import Workers
from distfa.runtime.worker_ports import streams

Pipeline = Literal["1F1B", "GPipe"]


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The result of a plan; bytes are those of one step.

    Attributes:
        name: The rule, schedule and fan-out, or the pipeline.
        step_seconds: Time of one step, once all steps take the same time.
        samples_per_second: batch size / step_seconds.
        boundaries: Payload bytes up and down, per boundary.
        nodes: For each node with layers: how many, bytes in and out over its network card, bytes of memory.
        workers: The layers of every worker.
        memory: Memory per layer; empty for a pipeline.
        steady: How much of the time everything is in use.
        bottleneck: What keeps the run from being faster, in words.
    """

    name: str
    step_seconds: float
    samples_per_second: float
    boundaries: tuple[dict[str, int], ...]
    nodes: tuple[dict[str, int], ...]
    workers: Workers
    memory: tuple[LayerMemory, ...]
    steady: SimulatedStep
    bottleneck: str


def forecast(setting: Setting, *, pipeline: Pipeline | None = None, advise: bool = False) -> Forecast:
    """Simulate a run to its steady state.

    Args:
        setting: Run and cluster.
        pipeline: Simulate this pipeline of torch instead: backpropagation with the run's sizes and micro-batches.
        advise: Whether to look for something faster, with further simulations.

    Raises:
        PlanError: The setting cannot work.
    """
    channels, steady = _simulate(setting, pipeline)

    def seconds_if(other: Setting) -> float:
        return _simulate(other, pipeline)[1].step_seconds

    memory = () if pipeline else _memory(setting)
    return Forecast(
        name=_name(setting, pipeline),
        step_seconds=steady.step_seconds,
        samples_per_second=setting.job.recipe.batch_size / steady.step_seconds,
        boundaries=_boundaries(setting),
        nodes=_nodes(setting, channels, memory),
        workers=setting.job.hosted,
        memory=memory,
        steady=steady,
        bottleneck=bottleneck(setting, steady, seconds_if if advise else None),
    )


def comparison(setting: Setting, found: Forecast, *, with_peer: bool = False) -> list[Forecast]:
    """The run's rule under both schedules, bp on the same wire, and torch's pipelines.

    Args:
        setting: The run.
        found: The prediction for the run.
        with_peer: Whether to include the pipelines.
    """
    recipe = setting.job.recipe
    able = [name for name in ("sync", "async") if name == "sync" or len(setting.rows) > 1]
    rows = [found if name == recipe.schedule else forecast(_change(setting, schedule=name)) for name in able]
    baseline = _change(setting, rule=BASELINE, feedback=FeedbackConfig(), schedule="sync")
    if recipe.rule != BASELINE:
        rows.append(forecast(baseline))
    if with_peer:
        plain = replace(baseline, job=replace(baseline.job, activation_codec=LOSSLESS, error_codec=LOSSLESS))
        pipelines: tuple[Pipeline, ...] = ("1F1B", "GPipe")
        rows += [forecast(plain, pipeline=pipeline) for pipeline in pipelines]
    return rows


def _change(setting: Setting, **changes: object) -> Setting:
    """The setting with other values in its recipe."""
    return replace(setting, job=replace(setting.job, recipe=replace(setting.job.recipe, **changes)))  # type: ignore[arg-type]


def _simulate(setting: Setting, pipeline: Pipeline | None) -> tuple[list[Channel], SimulatedStep]:
    wires = Wires(cluster=setting.cluster, wake_seconds=setting.calibration.wake_seconds)
    if pipeline is None:
        stages, channels = build_stages(setting, wires)
    else:
        stages, channels = build_pipeline(setting, wires, gpipe=pipeline == "GPipe")
    return channels, Simulation(stages, channels, wires).run()


def _name(setting: Setting, pipeline: Pipeline | None) -> str:
    if pipeline is not None:
        return f"{pipeline} pipeline, {BASELINE}"
    recipe = setting.job.recipe
    fanout = recipe.feedback.fanout
    return f"{recipe.rule}, {recipe.schedule}" + (f", fanout {fanout}" if fanout else "")


def _memory(setting: Setting) -> tuple[LayerMemory, ...]:
    job, base = setting.job, setting.calibration.process_bytes
    return memory_by_layer(
        job.recipe, setting.works, codec=job.codec, window=job.wire.window, base=base, workers=job.hosted
    )


def _boundaries(setting: Setting) -> tuple[dict[str, int], ...]:
    """Payload per step, computed from widths and codecs; the maximum, if a codec leaves out zeros.

    Nothing crosses inside a worker; errors that cross once for several of its layers are counted at the lowest of them.
    Rows of feedback that come every k steps count as 1/k of them in each step; they are not in the times.
    """
    job = setting.job
    table = {b: {"boundary": b, "up": 0, "down": 0} for b in job.recipe.network.boundaries}
    carried = streams(job)
    for link in training_links(job.recipe):
        if link not in carried or carried[link].boundary != link.boundary:
            continue
        codec = job.codec(link.direction)
        table[link.boundary][link.direction.value] += sum(
            codec.max_payload_bytes(n, link.columns, job.recipe.signal_dtype) for n in setting.rows
        )
    if (every := job.recipe.feedback.renew.every) is not None:
        rows = job.recipe.network.outputs * job.recipe.signal_dtype.itemsize
        for link in links(job.recipe):
            if link.direction is Direction.RENEWAL and link in carried:
                table[link.boundary]["down"] += rows * link.columns // every
    return tuple(table.values())


def _nodes(setting: Setting, channels: Sequence[Channel], memory: Sequence[LayerMemory]) -> tuple[dict[str, int], ...]:
    """Bytes of whole messages over each node's network card, per step, and the memory that its layers need."""
    table = {node: {"node": node, "layers": 0, "in": 0, "out": 0, "memory": 0} for node in setting.nodes}
    for layer, node in enumerate(setting.nodes):
        table[node]["layers"] += 1
        table[node]["memory"] += memory[layer].total if memory else 0
    goes_along = {id(other) for channel in channels for other in channel.along}
    for channel in channels:
        sender, receiver = (setting.nodes[layer - 1] for layer in (channel.sender, channel.receiver))
        if sender != receiver and id(channel) not in goes_along:
            table[sender]["out"] += sum(channel.sizes)
            table[receiver]["in"] += sum(channel.sizes)
    return tuple(table[node] for node in sorted(table))
