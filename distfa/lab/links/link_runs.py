"""distfa and torch's pipelines over the same shaped links: how many steps per second, and how many bytes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distfa.bench import torch_engines, variants
from distfa.bench.pace import Say, paced
from distfa.bench.torch_training import Pipeline
from distfa.core.books.records import StepRecord
from distfa.lab.links import accuracy_curve, namespaces
from distfa.lab.links.namespaces import INTERFACE, Nodes
from distfa.lab.links.ray_nodes import RayNodes
from distfa.measuring.scratch_run import run_spec
from distfa.measuring.subprocesses import command, launch
from distfa.run.observing import Progress
from distfa.settings import RunSpec, parse_spec

_DEADLINE_SECONDS = 900.0  # seconds for one configuration
_SETTLE_SECONDS = 0.5  # seconds from the output layer's last step until the lowest layer has its errors
_NEVER = 2.0  # an accuracy that is never reached
_PARTS = ("payload", "message")


@dataclass(frozen=True, kw_only=True)
class Passage:
    """The traffic of one configuration over the links, in all steps of the measurement.

    Attributes:
        name: Name of the configuration.
        steps: Updates made.
        whole_batches: Whether short batches at the ends of epochs were left out, as torch's pipelines must.
        payload_bytes: Bytes of encoded tensors.
        message_bytes: Bytes of whole gRPC messages; None without nodes, and for gloo, which does not tell.
        interface_bytes: Bytes sent by the interfaces of all nodes; None without nodes.
        samples_per_second: Rate after the warm-up; None without nodes.
        boundaries: Payload and message bytes per boundary, up and down; empty without nodes, and for gloo.
        sent_bytes: Bytes sent by each node's interface.
    """

    name: str
    steps: int
    payload_bytes: int
    whole_batches: bool = False
    message_bytes: int | None = None
    interface_bytes: int | None = None
    samples_per_second: float | None = None
    boundaries: list[dict[str, int]] = field(default_factory=list)
    sent_bytes: dict[int, int] = field(default_factory=dict)


def passages(
    specs: Sequence[RunSpec], pipelines: Sequence[Pipeline], *, layers: int, nodes: Nodes | None, warmup: int, say: Say
) -> Iterator[Passage]:
    """Run every configuration over the links of nodes; without nodes only count what it would send.

    Without nodes torch's pipelines run over this machine's loopback, and distfa runs on the serial engine, which has
    the payloads of a distributed run.

    Args:
        specs: Specs for distfa; all have the same steps.
        pipelines: Those of torch; they train what the first spec says.
        layers: How many layers the network has.
        nodes: One node per layer, not yet made; None for no nodes.
        warmup: Steps before the measurement of speed begins.
        say: Called with what is about to run.

    Raises:
        BenchError: The nodes cannot be made, a configuration failed, or did not end in time.
    """
    say = paced(say, len(pipelines) + (nodes is not None) + len(specs), ahead=True)
    with ExitStack() as stack:
        if nodes is not None:
            stack.enter_context(nodes)
        for pipeline in pipelines:
            say(pipeline.name)
            yield _pipeline(specs[0], pipeline, nodes, warmup)
        rays = None
        if nodes is not None:
            say(f"a Ray cluster of {layers} nodes")
            rays = stack.enter_context(RayNodes(nodes, layers))
        for spec in specs:
            say(f"distfa {variants.name(spec)}, codecs {spec.codec.activations}/{spec.codec.errors}")
            yield _distfa(spec, nodes, rays, layers, warmup) if nodes and rays else _count_bytes(spec)


def pipelines(spec: RunSpec, layers: int, nodes: Nodes | None) -> list[Pipeline]:
    """torch's pipelines that can run a spec's micro-batches, one process per layer, each on its node.

    None if messages are delayed, since those of gloo cannot be.
    """
    parts = spec.micro_batches
    if spec.batch_size % parts or spec.wire.delay_ms:
        return []
    where: dict[str, Any] = {}
    if nodes is not None:
        where = {"interface": INTERFACE, "prefixes": [nodes.command(node) for node in range(1, layers + 1)]}
    schedules = ("gpipe", "1f1b") if parts >= layers else ("gpipe",)
    return [
        Pipeline(layers=layers, processes=layers, schedule=schedule, micro_batches=parts, **where)
        for schedule in schedules
    ]


def _pipeline(spec: RunSpec, pipeline: Pipeline, nodes: Nodes | None, warmup: int) -> Passage:
    before = nodes.sent_bytes() if nodes else {}
    found = torch_engines.run_pipeline(spec, pipeline, warmup=warmup, deadline_seconds=_DEADLINE_SECONDS)
    sent = {node: count - before[node] for node, count in nodes.sent_bytes().items()} if nodes else {}
    return Passage(
        name=pipeline.name,
        steps=len(found.losses),
        payload_bytes=found.payload_bytes,
        whole_batches=True,
        interface_bytes=sum(sent.values()) or None,
        samples_per_second=found.steady.samples_per_second if nodes else None,
        sent_bytes=sent,
    )


def _count_bytes(spec: RunSpec) -> Passage:
    steps = spec.max_steps or 0
    (curve,) = accuracy_curve.measure_curves([spec], every=steps, target=_NEVER, deadline_seconds=_DEADLINE_SECONDS)
    return Passage(name=f"distfa {variants.name(spec)}", steps=steps, payload_bytes=curve.payload_bytes[-1])


def _distfa(spec: RunSpec, nodes: Nodes, rays: RayNodes, layers: int, warmup: int) -> Passage:
    spread = {
        "address": rays.address,
        "placement": "strict_spread",
        "layers": {layer: {"custom": {f"node{layer}": 1}} for layer in range(1, layers + 1)},
    }
    name = f"distfa {variants.name(spec)}, {spec.codec.activations}/{spec.codec.errors}"
    with tempfile.TemporaryDirectory() as scratch:  # here, so that it is removed even if the driver has to be killed
        kept = spec.model_dump(mode="json") | {"ray": spread, "run_dir": str(Path(scratch) / "run")}
        driver = command(_drive, spec=kept, warmup=warmup, counters=(nodes.name, nodes.owner))
        (report,) = launch(
            name, [[*nodes.command(1), *driver]], environment=rays.environment, deadline_seconds=_DEADLINE_SECONDS
        )
    boundaries, sent = report["boundaries"], {int(node): count for node, count in report["sent_bytes"].items()}
    payload, message = (sum(row[f"up_{part}"] + row[f"down_{part}"] for row in boundaries) for part in _PARTS)
    return Passage(
        name=f"distfa {variants.name(spec)}",
        steps=report["steps"],
        payload_bytes=payload,
        message_bytes=message,
        interface_bytes=sum(sent.values()) or None,
        samples_per_second=report["samples_per_second"],
        boundaries=boundaries,
        sent_bytes=sent,
    )


def _drive(*, spec: dict[str, Any], warmup: int, counters: tuple[str, int]) -> dict[str, Any]:
    """The driver of a run, in its own process on the first node; the test set is left out.

    So only training crosses the links from the first step to the last.

    Args:
        spec: The run; its ``max_steps`` is above ``warmup``.
        warmup: Steps before the measurement of speed begins.
        counters: The arguments of ``namespaces.sent_bytes``.
    """
    parsed = parse_spec(spec)
    dataset = parsed.data.load().take(slice(None), slice(0))
    steps: list[StepRecord] = []
    counted: list[dict[int, int]] = []

    def watch(progress: Progress) -> None:
        if isinstance(progress.record, StepRecord):
            steps.append(progress.record)
        is_last = isinstance(progress.record, StepRecord) and len(steps) == progress.steps
        if progress.record is None or is_last:
            time.sleep(_SETTLE_SECONDS if is_last else 0.0)
            counted.append(namespaces.sent_bytes(*counters))

    result, _ = run_spec(parsed, dataset, observer=watch)
    measured = steps[warmup:]
    return {
        "steps": result.steps,
        "samples_per_second": sum(step.rows for step in measured) / (measured[-1].seconds - steps[warmup - 1].seconds),
        "boundaries": result.bytes["boundaries"],
        "sent_bytes": {node: total - counted[0][node] for node, total in counted[1].items()},
    }
