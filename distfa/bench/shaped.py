"""distfa and torch's pipelines over the same shaped links: how fast their steps follow each other, and their bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from distfa.bench import link_run, torch_pipeline
from distfa.bench.namespaces import INTERFACE, Nodes
from distfa.bench.ray_nodes import RayNodes
from distfa.bench.torch_pipeline import Pipeline
from distfa.experiment.spec import RunSpec, parse

_DEADLINE_SECONDS = 900.0  # of one configuration
_PARTS = ("payload", "message")


@dataclass(frozen=True, kw_only=True)
class Passage:
    """What one configuration did over the links, in all steps of the measurement.

    Attributes:
        name: Of the configuration.
        steps: Updates made.
        payload_bytes: Of tensors, as encoded.
        message_bytes: Of whole gRPC messages; None for gloo, which does not say.
        interface_bytes: Sent by all nodes' interfaces; None without nodes.
        samples_per_second: After the warm-up; None without nodes.
        boundaries: Payload and message per boundary, up and down; empty for gloo.
        sent_bytes: By each node's interface.
    """

    name: str
    steps: int
    payload_bytes: int
    message_bytes: int | None = None
    interface_bytes: int | None = None
    samples_per_second: float | None = None
    boundaries: list[dict[str, int]] = field(default_factory=list)
    sent_bytes: dict[int, int] = field(default_factory=dict)


def passages(
    specs: Sequence[RunSpec],
    pipelines: Sequence[tuple[str, int]],
    *,
    layers: int,
    nodes: Nodes | None,
    warmup: int,
    say: Callable[[str], None],
) -> Iterator[Passage]:
    """Run every configuration over the links of nodes, or, without them, over this machine's loopback to count bytes.

    Args:
        specs: Of distfa; all have the same steps.
        pipelines: (schedule, micro-batches) of torch's pipelines, with as many processes as layers; they train by
            the first spec.
        layers: Of the network.
        nodes: One per layer, not yet made; None for none.
        warmup: Steps before the measurement of speed begins.
        say: Told what is about to run.

    Raises:
        BenchError: The nodes cannot be made, a configuration failed, or did not end in time.
    """
    with ExitStack() as stack:
        if nodes is not None:
            stack.enter_context(nodes)
        for schedule, parts in pipelines:
            prefixes = [nodes.command(node) for node in range(1, layers + 1)] if nodes else ()
            pipeline = Pipeline(
                processes=layers,
                schedule=schedule,
                micro_batches=parts,
                interfaces=(INTERFACE if nodes else "lo",),
                prefixes=prefixes,
            )
            say(pipeline.name)
            yield _pipeline(specs[0], pipeline, nodes, warmup)
        rays = None
        if nodes is not None:
            say(f"a Ray cluster of {layers} nodes")
            rays = stack.enter_context(RayNodes(nodes, layers))
        for spec in specs:
            say(f"distfa {spec.rule}, codecs {spec.codec.activations}/{spec.codec.errors}")
            yield _distfa(spec, nodes, rays, layers, warmup)


def pipelines(spec: RunSpec, layers: int) -> list[tuple[str, int]]:
    """torch's schedules that can run a spec's micro-batches, one process per layer."""
    parts = spec.micro_batches
    if spec.batch_size % parts:
        return []
    return [("gpipe", parts), ("1f1b", parts)] if parts >= layers else [("gpipe", parts)]


def _pipeline(spec: RunSpec, pipeline: Pipeline, nodes: Nodes | None, warmup: int) -> Passage:
    before = nodes.sent_bytes() if nodes else {}
    found = torch_pipeline.run(spec, pipeline, warmup=warmup, deadline_seconds=_DEADLINE_SECONDS)
    sent = {node: count - before[node] for node, count in nodes.sent_bytes().items()} if nodes else {}
    return Passage(
        name=pipeline.name,
        steps=found.steps,
        payload_bytes=found.payload_bytes,
        interface_bytes=sum(sent.values()) or None,
        samples_per_second=found.measured().samples_per_second if nodes else None,
        sent_bytes=sent,
    )


def _distfa(spec: RunSpec, nodes: Nodes | None, rays: RayNodes | None, layers: int, warmup: int) -> Passage:
    if rays is not None:
        spread = {
            "address": rays.address,
            "placement": "strict_spread",
            "layers": {layer: {"custom": {f"node{layer}": 1}} for layer in range(1, layers + 1)},
        }
        spec = parse({**spec.model_dump(mode="json"), "ray": spread})
    more = {"environment": rays.environment} if rays else {}
    found = link_run.run(spec, warmup=warmup, nodes=nodes, deadline_seconds=_DEADLINE_SECONDS, **more)
    total = {part: sum(row[f"up_{part}"] + row[f"down_{part}"] for row in found.boundaries) for part in _PARTS}
    return Passage(
        name=f"distfa {spec.rule}",
        steps=found.steps,
        payload_bytes=total["payload"],
        message_bytes=total["message"],
        interface_bytes=sum(found.sent_bytes.values()) or None,
        samples_per_second=found.samples_per_second if nodes else None,
        boundaries=found.boundaries,
        sent_bytes=found.sent_bytes,
    )
