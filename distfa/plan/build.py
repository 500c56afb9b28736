"""Builds the stages and channels that are simulated from a run on a cluster, or from torch's pipeline of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import count

import numpy as np
from numpy.typing import NDArray
from torch import nn

from distfa.core import rules, schedule
from distfa.core.base.order import Batch
from distfa.core.base.recipe import FeedbackConfig, Recipe
from distfa.costs import arithmetic, counted
from distfa.costs.arithmetic import Effort
from distfa.costs.counted import LayerWork
from distfa.costs.layer_memory import training_links
from distfa.plan.calibration import Calibration, MessageCost, Speed
from distfa.plan.cluster import Cluster
from distfa.plan.queues import Line, Wires
from distfa.plan.stages import Channel, Stage
from distfa.runtime.job import Job, Workers
from distfa.runtime.worker_ports import streams
from distfa.transport.message import Direction, Link

Work = Callable[[int], Effort]
MESSAGE_BYTES = 72  # bytes of identity, shape, checksum and frame around a payload, about
_GLOO_OWN = MessageCost(seconds=50e-6, seconds_per_byte=0.0)
_GLOO_CARRY = MessageCost(seconds=60e-6, seconds_per_byte=0.48e-9)  # a MiB takes about 1 ms at both ends together


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The setting to predict.

    Attributes:
        job: The run.
        cluster: The cluster.
        nodes: The node of every layer.
        calibration: What operations cost.
        modules: The modules of every layer, if they are not drawn from the seed.
    """

    job: Job
    cluster: Cluster
    nodes: tuple[int, ...]
    calibration: Calibration
    modules: Mapping[int, nn.Module] = field(default_factory=dict)

    @cached_property
    def works(self) -> tuple[LayerWork, ...]:
        """The operations of every layer, layer 1 first."""
        return counted.works(self.job.recipe, self.modules)

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """Rows of every micro-batch of a step."""
        return tuple(map(len, _parts(self.job.recipe)))

    def speed(self, layer: int) -> Speed:
        """The speed of a layer's node."""
        group = self.cluster.each[self.nodes[layer - 1]]
        return Speed(calibration=self.calibration, node=group, number_bytes=self.job.recipe.signal_dtype.itemsize)

    def by_part(self, seconds: Callable[[int], float]) -> tuple[float, ...]:
        """For every micro-batch the value of a function of its rows; called once for each size."""
        known = {n: seconds(n) for n in set(self.rows)}
        return tuple(known[n] for n in self.rows)

    def seconds_by_part(self, layer: int, work: Callable[[int], Effort]) -> tuple[float, ...]:
        """Seconds of every micro-batch at a layer, from the effort for this many rows."""
        speed = self.speed(layer)
        return self.by_part(lambda n: speed.seconds(work(n)))


def build_stages(setting: Setting, wires: Wires) -> tuple[list[Stage], list[Channel]]:
    """The stages and channels of a distfa run."""
    recipe = setting.job.recipe
    stages = [
        _build_stage(setting, recipe, layer, work, learn=work.teach, after=work.accumulate)
        for layer, work in enumerate(setting.works, start=1)
    ]
    carried = streams(setting.job)
    channels = {link: _channel(setting, wires, link) for link in training_links(recipe)}
    for link, channel in channels.items():
        stream = carried.get(link)
        if stream is not None and stream.direction is Direction.SHARED and stream.boundary != link.boundary:
            lowest = replace(stream, direction=Direction.DOWN)
            channels[lowest].along.append(channel)
    return stages, list(channels.values())


def _build_stage(
    setting: Setting,
    recipe: Recipe,
    layer: int,
    work: LayerWork,
    *,
    learn: Work,
    after: Work | None,
    gpipe: bool = False,
) -> Stage:
    """A layer: what it does from the error message to what it sends on, and after that."""
    return Stage(
        node=setting.nodes[layer - 1],
        worker=setting.job.worker_of(layer),
        operations=partial(_operations, recipe, layer, setting.job.hosted, gpipe=gpipe),
        forward=setting.seconds_by_part(layer, work.forward),
        learn=setting.seconds_by_part(layer, learn),
        after=setting.seconds_by_part(layer, after) if after else (0.0,) * len(setting.rows),
        update=setting.speed(layer).seconds(work.update()),
    )


def _operations(recipe: Recipe, layer: int, workers: Workers, *, gpipe: bool = False) -> Iterator[schedule.Operation]:
    """Every operation of ``layer`` in a run without end.

    GPipe, the simplest order of a pipeline, makes all forwards of a step, then all backwards (Huang et al. 2019).
    """
    ahead = recipe.micro_batches if gpipe else schedule.forwards_ahead(recipe, layer, workers)
    return schedule.operations(_batches(recipe), ahead)


def _batches(recipe: Recipe) -> Iterator[Batch]:
    """Whole batches, with neither epochs nor evaluations between them."""
    parts, drains = _parts(recipe), recipe.schedule == "sync"
    for step in count():
        yield Batch(
            divisor=recipe.batch_size,
            step=step,
            epoch=0,
            parts=parts,
            evaluate=False,
            probe=False,
            cut=False,
            drains=drains,
            lr=recipe.optimizer.lr,
        )


def _parts(recipe: Recipe) -> tuple[NDArray[np.int64], ...]:
    """The micro-batches of a step, as ``core.base.order`` splits it."""
    rows = np.zeros(recipe.batch_size, dtype=np.int64)
    return tuple(np.array_split(rows, min(recipe.micro_batches, recipe.batch_size)))


def _channel(setting: Setting, wires: Wires, link: Link) -> Channel:
    """A link of distfa: its codec, its threads, its window."""
    c, recipe, codec = setting.calibration, setting.job.recipe, setting.job.codec(link.direction)
    inside = setting.job.worker_of(link.sender) == setting.job.worker_of(link.receiver)
    rounds = 0 if inside and codec.lossless(recipe.signal_dtype) else 1
    up, columns = link.direction is Direction.UP, link.columns
    cost = c.codec(codec.name)
    origin, receiver = setting.speed(link.sender).seconds, setting.speed(link.receiver).seconds

    def payload(n: int) -> int:
        return codec.max_payload_bytes(n, columns, recipe.signal_dtype)

    def send(n: int) -> float:
        emitted = 0.0 if up else origin(setting.works[link.sender - 1].emit(link.boundary, n))
        return emitted + (0.0 if inside else c.send.of(payload(n))) + rounds * cost.encode * n * columns

    def receive(n: int) -> float:
        taken = (0.0 if inside else c.receive.of(payload(n))) + rounds * cost.decode * n * columns
        return taken + receiver(arithmetic.check_effort(recipe, n, columns))

    sizes = tuple(payload(n) + MESSAGE_BYTES for n in setting.rows)
    route = wires.route(setting.nodes[link.sender - 1], setting.nodes[link.receiver - 1])
    return Channel(
        sender=link.sender,
        receiver=link.receiver,
        up=up,
        sizes=sizes,
        send=setting.by_part(send),
        receive=setting.by_part(receive),
        carry=_carry_seconds(c.carry, sizes),
        limit=setting.job.wire.window if inside else 2 * setting.job.wire.window + _under_way(route, min(sizes)),
        inside=inside,
    )


def _carry_seconds(cost: MessageCost, sizes: Sequence[int]) -> tuple[float, ...]:
    """Seconds in the wire's threads, for messages of these sizes."""
    return tuple(cost.of(size) for size in sizes)


def _under_way(route: tuple[Line, ...], size_bytes: int) -> int:
    """Messages that HTTP/2 holds between the two windows: its window grows to what the lines hold."""
    if not route:
        return 1
    rate, round_trip = min(line.bytes_per_second for line in route), 2 * sum(line.latency_seconds for line in route)
    return 1 + math.ceil(rate * round_trip / size_bytes)


def build_pipeline(setting: Setting, wires: Wires, *, gpipe: bool) -> tuple[list[Stage], list[Channel]]:
    """For comparison: torch's own pipelines of backpropagation, 1F1B or GPipe, one stage per worker.

    Nodes, lines and optimizer are the same; messages are plain numbers. A stage's backward is that of autograd: the
    gradient of its input leaves only when the gradient of its weights is done too. Every step is flushed.
    """
    recipe = replace(
        setting.job.recipe, rule=rules.BASELINE, feedback=FeedbackConfig(), schedule="sync", check_finite=False
    )
    stages = [
        _build_stage(setting, recipe, layer, work, learn=partial(_backward, work), after=None, gpipe=gpipe)
        for layer, work in enumerate(counted.works(recipe, setting.modules), start=1)
    ]
    channels = []
    for boundary in recipe.network.boundaries:
        sizes = tuple(n * recipe.network.sizes[boundary] * recipe.signal_dtype.itemsize for n in setting.rows)
        inside = setting.job.worker_of(boundary) == setting.job.worker_of(boundary + 1)
        own = (0.0,) * len(sizes) if inside else _carry_seconds(_GLOO_OWN, sizes)
        for sender, receiver in ((boundary, boundary + 1), (boundary + 1, boundary)):
            channels.append(
                Channel(
                    sender=sender,
                    receiver=receiver,
                    up=sender < receiver,
                    sizes=sizes,
                    send=own,
                    receive=own,
                    carry=_carry_seconds(_GLOO_CARRY, sizes),
                    limit=2 * len(setting.rows),  # all messages of a step: a send does not wait for its receiver
                    inside=inside,
                )
            )
    return stages, channels


def _backward(work: LayerWork, n: int) -> Effort:
    """The whole backward of a stage under the baseline rule, and the operations that autograd adds."""
    down = [work.emit(boundary, n) for boundary in work.sends_to]
    return sum(down, work.teach(n) + work.accumulate(n)) + Effort(calls=2)
