"""From a run on a cluster to the stages and channels that are simulated."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

from distfa.bench import arithmetic
from distfa.bench.arithmetic import Effort
from distfa.bench.layer_memory import training_links
from distfa.codecs import Codec
from distfa.core import rules
from distfa.core.rules.base import Rule
from distfa.errors import PlanError
from distfa.plan import layer_schedule
from distfa.plan.calibration import Calibration, MessageCost, Speed
from distfa.plan.cluster import Cluster
from distfa.plan.queues import Line, Wires
from distfa.plan.stages import Channel, Stage
from distfa.runtime.job import Job
from distfa.transport.message import Direction

MESSAGE_BYTES = 72  # identity, shape, checksum and frame around a payload, about


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is to be predicted.

    Attributes:
        job: The run.
        cluster: Where.
        nodes: The node of every layer.
        calibration: What things cost.
        fanout: How a direct rule's error reaches its layers: None: the output layer sends to each; k: it
            sends to k layers, each of which passes it on to k more, unopened; 1 is a relay.
    """

    job: Job
    cluster: Cluster
    nodes: tuple[int, ...]
    calibration: Calibration
    fanout: int | None = None

    @cached_property
    def rule(self) -> Rule:
        """The run's."""
        return rules.build(self.job.recipe)

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """Of every micro-batch of a step, as ``core.order`` splits it."""
        return layer_schedule.rows(self.job.recipe)

    def speed(self, layer: int) -> Speed:
        """Of a layer's node."""
        group = self.cluster.each[self.nodes[layer - 1]]
        return Speed(calibration=self.calibration, node=group, number_bytes=self.job.recipe.signal_dtype.itemsize)

    def by_part(self, seconds: Callable[[int], float]) -> tuple[float, ...]:
        """For every micro-batch what a function says of its rows; asked once for each size there is."""
        known = {n: seconds(n) for n in set(self.rows)}
        return tuple(known[n] for n in self.rows)

    def timed(self, layer: int, work: Callable[[int], Effort]) -> tuple[float, ...]:
        """Seconds of every micro-batch at a layer, from the effort for so many rows."""
        speed = self.speed(layer)
        return self.by_part(lambda n: speed.seconds(work(n)))


def build(setting: Setting, wires: Wires) -> tuple[list[Stage], list[Channel]]:
    """The stages and channels of a run of distfa's.

    Raises:
        PlanError: ``fanout`` with a rule that sends nobody the same message twice.
    """
    recipe, rule = setting.job.recipe, setting.rule
    if setting.fanout is not None and not (rule.takes_fanout and recipe.rank is None):
        able = ", ".join(name for name, known in rules.RULES.items() if known.takes_fanout)
        raise PlanError(
            f"broadcast by relay or tree goes with rule {able} at full rank, which sends every layer the same error; "
            f"this run has rule {recipe.rule!r}, rank {recipe.rank}"
        )

    stages = [
        Stage(
            node=setting.nodes[l - 1],
            operations=partial(layer_schedule.operations, recipe, l),
            forward=setting.timed(l, partial(arithmetic.forward, recipe, l)),
            learn=setting.timed(l, partial(arithmetic.teach, recipe, rule, l)),
            after=setting.timed(l, partial(arithmetic.accumulate, recipe, rule, l)),
            update=setting.speed(l).seconds(arithmetic.update(recipe, rule, l)),
        )
        for l in range(1, len(recipe.network) + 1)
    ]
    passing = rule if setting.fanout is None else rules.build(replace(recipe, fanout=setting.fanout))
    channels = []
    for link in training_links(recipe):
        up = link.direction is Direction.UP
        sender = link.sender if up else passing.origin(link.receiver) or link.sender
        emit = partial(arithmetic.emit, recipe, rule, link.boundary)
        channels.append(
            channel(
                setting,
                wires,
                ends=(sender, link.receiver),
                up=up,
                columns=link.columns,
                codec=setting.job.codec(link.direction),
                emitted=setting.by_part(lambda n: 0.0) if up else setting.timed(link.sender, emit),
                relayed=sender != link.sender,
            )
        )
    by_receiver = {c.receiver: c for c in channels if not c.up}
    for c in channels:
        if c.relayed:
            by_receiver[c.sender].onward.append(c)
    return stages, channels


def channel(
    setting: Setting,
    wires: Wires,
    *,
    ends: tuple[int, int],
    up: bool,
    columns: int,
    codec: Codec,
    emitted: tuple[float, ...],
    relayed: bool,
) -> Channel:
    """One of distfa's links: its codec, its threads, its window."""
    c, recipe = setting.calibration, setting.job.recipe
    cost, check = c.codec(codec.name), setting.speed(ends[1]).seconds
    sizes = tuple(codec.max_payload_bytes(n, columns, recipe.signal_dtype) + MESSAGE_BYTES for n in setting.rows)
    route = wires.route(*(setting.nodes[layer - 1] for layer in ends))

    def send(n: int) -> float:
        return c.send.of(codec.max_payload_bytes(n, columns, recipe.signal_dtype)) + cost.encode * n * columns

    def receive(n: int) -> float:
        decoded = c.receive.of(codec.max_payload_bytes(n, columns, recipe.signal_dtype)) + cost.decode * n * columns
        return decoded + check(arithmetic.check(recipe, n, columns))

    sent = tuple(a + b for a, b in zip(emitted, setting.by_part(send), strict=True))
    return Channel(
        sender=ends[0],
        receiver=ends[1],
        up=up,
        sizes=sizes,
        send=setting.by_part(lambda n: 0.0) if relayed else sent,
        receive=setting.by_part(receive),
        carry=carried(c.carry, sizes),
        limit=2 * setting.job.wire.window + _under_way(route, min(sizes)),
        relayed=relayed,
    )


def carried(cost: MessageCost, sizes: Sequence[int]) -> tuple[float, ...]:
    """Seconds in the wire's threads, for messages of these sizes."""
    return tuple(cost.of(size) for size in sizes)


def _under_way(route: tuple[Line, ...], size_bytes: int) -> int:
    """Messages that HTTP/2 keeps between the two windows: its window grows to what the lines hold."""
    if not route:
        return 1
    rate, round_trip = min(line.bytes_per_second for line in route), 2 * sum(line.latency_seconds for line in route)
    return 1 + math.ceil(rate * round_trip / size_bytes)
