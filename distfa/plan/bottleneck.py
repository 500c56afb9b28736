"""Describes what keeps a run from being faster, and what might help: other micro-batches, another placement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from distfa.errors import PlanError
from distfa.plan.build import Setting
from distfa.plan.cluster import Cluster, place
from distfa.plan.setup import Planned
from distfa.plan.simulate import SimulatedStep

_FULL = 0.85  # a thing that is in use for this share of the time is what others wait for
_MATTERS = 0.05
_MOST_OPERATIONS = 50_000  # steps of the simulations that look for better micro-batches

_OTHER_PLACEMENTS = {"pack": "spread", "strict_pack": "spread", "spread": "pack", "strict_spread": "pack"}

SecondsIf = Callable[[Setting], float]


def bottleneck(setting: Setting, steady: SimulatedStep, seconds_if: SecondsIf | None) -> str:
    """The busiest thing if it is busy enough; else what the layers wait for.

    Args:
        setting: What was simulated.
        steady: The result of the simulation.
        seconds_if: Gives the step time of another setting, to find out what would help; None to skip that.
    """
    hosted = setting.job.hosted
    compute = [sum(steady.compute[layer - 1] for layer in layers) for layers in hosted]
    wire = [sum(steady.wire[layer - 1] for layer in layers) for layers in hosted]
    busy = [min(1.0, sum(shares)) for shares in zip(compute, wire, strict=True)]
    worker = max(range(len(busy)), key=lambda i: busy[i])
    noun = "layer" if len(hosted) == len(steady.compute) else "worker"
    resource = max(steady.resources, key=lambda name: steady.resources[name])
    used = steady.resources[resource]
    if used >= _FULL and used > busy[worker] - 0.01:
        return f"{resource}: {used:.0%} in use"
    if busy[worker] >= _FULL:
        what = "compute" if compute[worker] >= wire[worker] else "messages"
        return f"{noun} {worker + 1}'s {what}: its thread is busy {busy[worker]:.0%} of the time"
    text = f"the pipe is not full: the busiest {noun}, {worker + 1}, waits {1 - busy[worker]:.0%} of the time"
    if seconds_if is None:
        return text
    saved = 1 - seconds_if(replace(setting, cluster=_without_latency(setting.cluster))) / steady.step_seconds
    if saved > _MATTERS:
        text = f"latency: {text}, and without latency a step would take {saved:.0%} less"
    return text + _better_micro_batches(setting, steady.step_seconds, seconds_if)


def _better_micro_batches(setting: Setting, seconds: float, seconds_if: SecondsIf) -> str:
    """Whether fewer or more micro-batches would be faster, as far as that can be tried quickly."""
    recipe, parts = setting.job.recipe, len(setting.rows)
    room, tried = _MOST_OPERATIONS // len(recipe.network), {}
    for candidate in (parts // 2, parts // 4, parts // 16, 2 * parts, 4 * parts, 16 * parts):
        if 1 <= candidate <= min(recipe.batch_size, room) and candidate not in tried:
            job = replace(setting.job, recipe=replace(recipe, micro_batches=candidate))
            tried[candidate] = seconds_if(replace(setting, job=job))
            room -= candidate
    best = min(tried, key=lambda candidate: tried[candidate], default=parts)
    if best not in tried or tried[best] > (1 - _MATTERS) * seconds:
        return ""
    return f"; {'raise' if best > parts else 'lower'} micro_batches to {best}: {1 - tried[best] / seconds:.0%} less"


def placement_notes(planned: Planned, setting: Setting, step_seconds: float, seconds_if: SecondsIf) -> list[str]:
    """Notes on where the layers are: that no line is used, and which placement is faster.

    Args:
        planned: The run.
        setting: Where its layers are.
        step_seconds: The prediction for that.
        seconds_if: As for ``bottleneck``.
    """
    said, mine = [], planned.spec.ray.placement
    hosted, layers, used = setting.job.hosted, len(setting.nodes), len(set(setting.nodes))
    if used == 1 and layers > 1 and len(setting.cluster.each) > 1:
        said.append(f"note: placement {mine!r} puts all {layers} layers on one node, so nothing crosses the network")
    other = _OTHER_PLACEMENTS[mine]
    try:
        places = place(setting.cluster, len(hosted), other, planned.spec.ray.resources.cpus)
    except PlanError:
        return said
    nodes = tuple(place for place, together in zip(places, hosted, strict=True) for _ in together)
    if nodes == setting.nodes:
        return said
    seconds = seconds_if(replace(setting, nodes=nodes))
    if seconds < (1 - _MATTERS) * step_seconds:
        said.append(
            f"note: --set ray.placement={other} puts them on {len(set(nodes))} nodes, and a step would take "
            f"{1e3 * seconds:,.2f} ms, {1 - seconds / step_seconds:.0%} less"
        )
    return said


def _without_latency(cluster: Cluster) -> Cluster:
    network = cluster.network
    between = network.between_sites and network.between_sites.model_copy(update={"latency_seconds": 0.0})
    quiet = network.model_copy(update={"latency_seconds": 0.0, "between_sites": between})
    return cluster.model_copy(update={"network": quiet})
