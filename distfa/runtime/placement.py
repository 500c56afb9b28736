"""The resources that workers ask for, and whether nodes can provide them: plain arithmetic, without Ray.

bundle   what one worker reserves, as {"CPU": 1.0, "GPU": 0.5, "my_resource": 1.0}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from distfa.errors import ClusterError, SpecError
from distfa.text.words import human_bytes

Bundle = dict[str, float]
_LEAST = 1e-4  # Ray counts resources in ten-thousandths
_ROUND = 1e-9
_TRIALS = 20_000
_NODES_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Resources:
    """The resources that Ray reserves for a worker.

    Attributes:
        cpus: Processors; None: an even share of the cluster, at most 1.
        gpus: GPUs; None: an even share where the run uses CUDA.
        custom: Ray's custom resources.
    """

    cpus: Annotated[float, Ge(0)] | None = None
    gpus: Annotated[float, Ge(0)] | None = None
    custom: dict[str, Annotated[float, Gt(0)]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Which Ray cluster a run uses, and where on it.

    Attributes:
        address: ``host:port`` or ``auto`` for a running cluster; ``local``: start Ray on this machine; None:
            RAY_ADDRESS, or else ``local``.
        placement: Ray's strategy for the workers' reservations.
        workers: How many processes host the layers, adjacent ones together, balanced by their counted work; ``auto``:
            as many as the cluster has GPUs or processors; or the layers of each, as in ``[[1, 2], [3]]``; None: one
            layer each. No result depends on it.
        replicas: How many workers share the micro-batches of the same layers (micro-batch m goes to replica m mod
            ``replicas``) and add up their gradients before each update; part of what decides the weights.
        resources: Resources of every worker, but for those of layers that ``layers`` names.
        layers: Resources of individual layers, of workers that host one; the first layer is 1.
        startup_seconds: Longest wait for the layers to start.
        max_recoveries: How often a run goes back to its last checkpoint on its own after losing a layer, a node or a
            link, without a new checkpoint in between; 0: never.
    """

    address: str | None = None
    placement: Literal["pack", "spread", "strict_pack", "strict_spread"] = "pack"
    workers: Annotated[int, Ge(1)] | Literal["auto"] | tuple[tuple[int, ...], ...] | None = None
    replicas: Annotated[int, Ge(1)] = 1
    resources: Resources = field(default_factory=Resources)
    layers: dict[int, Resources] = field(default_factory=dict)
    startup_seconds: Annotated[float, Gt(0)] = 120.0
    max_recoveries: Annotated[int, Ge(0)] = 3

    def per_worker(self, workers: Sequence[Sequence[int]]) -> tuple[Resources, ...]:
        """The resources that each worker asks for.

        Args:
            workers: The layers of each.

        Raises:
            SpecError: A layer is named that does not exist, or that shares its worker with others.
        """
        last = workers[-1][-1]
        if strangers := [layer for layer in self.layers if not 1 <= layer <= last]:
            raise SpecError(f"ray.layers names layer {strangers[0]}, but the network has layers 1..{last}")
        for number, layers in enumerate(workers, start=1):
            if len(layers) > 1 and (named := [layer for layer in layers if layer in self.layers]):
                raise SpecError(
                    f"ray.layers gives layer {named[0]} resources of its own, but worker {number} hosts layers "
                    f"{layers[0]}-{layers[-1]}; give that layer a worker of its own under ray.workers, or set "
                    "ray.resources for all workers"
                )
        return tuple(self.layers.get(layers[0], self.resources) for layers in workers)


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node of the cluster.

    Attributes:
        address: Its address.
        total: All its resources that layers may ever get.
    """

    address: str
    total: Mapping[str, float]


def share(per_node: Sequence[float], workers: int) -> float:
    """The largest equal share, at most 1, by which ``workers`` workers fit on nodes of these sizes.

    Ray counts resources in ten-thousandths, so the share is rounded down to four digits; 0 if the nodes have nothing.
    """
    candidates = {min(1.0, size / parts) for size in per_node if size > 0 for parts in range(1, workers + 1)}
    for candidate in sorted(candidates, reverse=True):
        rounded = int(candidate * 10_000) / 10_000
        if rounded > 0 and sum(int(size / rounded + _ROUND) for size in per_node) >= workers:
            return rounded
    return 0.0


def bundles(
    resources: Sequence[Resources], nodes: Sequence[Node], device: str, noun: str = "layer"
) -> tuple[list[Bundle], str]:
    """The resources to reserve for every worker, with shares filled in, and the device that they use.

    Args:
        resources: What each worker asks for.
        nodes: The nodes of the cluster.
        device: ``cpu``, ``cuda`` or ``auto``.
        noun: What a worker is called where something goes wrong: ``layer`` if each hosts one.

    Returns:
        Bundles, and ``cpu`` or ``cuda``.

    Raises:
        ClusterError: CUDA is asked for but there is no GPU, or a worker is to have none.
    """
    gpus = [node.total.get("GPU", 0.0) for node in nodes]
    if device == "cuda" and not any(gpus):
        raise ClusterError(
            f"device is 'cuda', but no node of the cluster has a GPU ({_describe_nodes(nodes)}); use device: auto or "
            "cpu, or attach to a cluster with GPUs ('ray start --num-gpus' where Ray does not detect them)"
        )
    cpu_share = share([node.total.get("CPU", 0.0) for node in nodes], len(resources))
    gpu_share = share(gpus, len(resources)) if device != "cpu" else 0.0
    found = []
    for wanted in resources:
        cpu = cpu_share if wanted.cpus is None else wanted.cpus
        gpu = gpu_share if wanted.gpus is None else wanted.gpus
        bundle = {"CPU": cpu, "GPU": gpu, **wanted.custom}
        found.append({key: value for key, value in bundle.items() if value > 0} or {"CPU": 0.001})
    without = [number for number, bundle in enumerate(found, start=1) if not bundle.get("GPU", 0.0)]
    if device == "cuda" and without:
        raise ClusterError(
            f"device is 'cuda', but {noun} {without[0]} would have 0 GPUs; leave ray.resources.gpus out for an "
            "even share"
        )
    if device == "auto":
        device = "cpu" if without else "cuda"
    return found, device


def fits(bundles: Sequence[Bundle], nodes: Sequence[Node], placement: str) -> bool:
    """Whether empty nodes can hold all bundles; also True if that would take too long to find out."""
    if placement == "strict_pack":
        together = Counter[str]()
        for bundle in bundles:
            together.update(bundle)
        return any(_holds(node.total, together) for node in nodes)
    room = [dict(node.total) for node in nodes]
    order = sorted(bundles, key=lambda bundle: (len(bundle), sum(bundle.values())), reverse=True)
    return _can_pack(order, room, placement == "strict_spread", set())


def shortfall(bundles: Sequence[Bundle], nodes: Sequence[Node], placement: str, noun: str = "layer") -> str:
    """Why these nodes can never hold all bundles, in words: what is asked for, what is there, what is missing."""
    has = f"the cluster has {_describe_nodes(nodes)}"
    for number, bundle in enumerate(bundles, start=1):
        if not any(_holds(node.total, bundle) for node in nodes):
            lacking = min((_find_lacking(node.total, bundle) for node in nodes), key=len, default=dict(bundle))
            missing = list_resources(lacking)
            asked = list_resources(bundle)
            return f"{noun} {number} asks for {asked}, but no node has that ({missing} more is needed); {has}"
    together = Counter[str]()
    for bundle in bundles:
        together.update(bundle)
    if placement == "strict_spread" and len(bundles) > len(nodes):
        return f"strict_spread needs {len(bundles)} nodes for {len(bundles)} {noun}s, but {has}"
    if placement == "strict_pack":
        return f"strict_pack needs all {len(bundles)} {noun}s, {list_resources(together)}, on one node, but {has}"
    return (
        f"{len(bundles)} {noun}s ask for {list_resources(together)} together, at most "
        f"{list_resources(_greatest(bundles))} each, and do not fit together; {has}"
    )


def list_resources(resources: Mapping[str, float]) -> str:
    """``CPU 2, memory 1.1 GB``."""
    return (
        ", ".join(
            f"{name} {human_bytes(amount) if name.endswith('memory') else _number(amount)}"
            for name, amount in sorted(resources.items())
            if not name.startswith("node:")
        )
        or "nothing"
    )


def _can_pack(bundles: Sequence[Bundle], room: list[dict[str, float]], apart: bool, failed: set[object]) -> bool:
    """Try the first bundle on each node it fits on, then the others after it; nothing that failed is tried twice."""
    if not bundles or len(failed) >= _TRIALS:
        return True
    state = (len(bundles), tuple(sorted(tuple(sorted(free.items())) for free in room)))
    if state in failed:
        return False
    for i, free in enumerate(room):
        if free in room[:i] or not _holds(free, bundles[0]):
            continue
        left = {key: round(value - bundles[0].get(key, 0.0), 6) for key, value in free.items()}
        rest = [*room[:i], *([] if apart else [left]), *room[i + 1 :]]
        if _can_pack(bundles[1:], rest, apart, failed):
            return True
    failed.add(state)
    return False


def _holds(free: Mapping[str, float], bundle: Mapping[str, float]) -> bool:
    return not _find_lacking(free, bundle)


def _find_lacking(free: Mapping[str, float], bundle: Mapping[str, float]) -> dict[str, float]:
    return {k: v - free.get(k, 0.0) for k, v in bundle.items() if v - free.get(k, 0.0) > _LEAST / 2}


def _greatest(bundles: Sequence[Bundle]) -> Bundle:
    return {key: max(bundle.get(key, 0.0) for bundle in bundles) for bundle in bundles for key in bundle}


def _describe_nodes(nodes: Sequence[Node]) -> str:
    """The resources of each node that layers can ask for, without memory, in words."""
    shown = [
        f"node {node.address}: {list_resources({k: v for k, v in node.total.items() if 'memory' not in k})}"
        for node in nodes[:_NODES_SHOWN]
    ]
    more = len(nodes) - len(shown)
    return ("; ".join(shown) or "no node") + (f"; and {more} more nodes" if more else "")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.4g}"
