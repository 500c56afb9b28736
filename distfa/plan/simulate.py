"""Simulates the layers at work: a discrete-event simulation until every step takes as long as the one before it.

A layer is one process (of SimPy, not of the system) that works through its operations: it takes the message that an
operation needs, computes, and sends. Layers of one worker share its thread: backwards come first, then upper layers.
A message leaves its sender's thread, costs the wire's threads at both ends, and
passes the lines between the two nodes; a link holds a bounded number of messages, so a slow receiver slows its sender.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import simpy

from distfa.core.schedule import Backward, Forward, Update
from distfa.errors import PlanError
from distfa.plan.queues import Line, Machine, Wires
from distfa.plan.stages import Channel, Stage

_STEADY = 5e-3  # steps that differ by no more than this share count as equal
_ALIKE = 3
_MOST_STEPS = 24
_PASSES = (Forward, Backward)


@dataclass(frozen=True, kw_only=True)
class SimulatedStep:
    """A step, once all steps take the same time.

    Attributes:
        step_seconds: Time of a step.
        settled: Whether steps reached the same time; if not, ``step_seconds`` is the mean of the later half of the
            steps.
        simulated_steps: How many were simulated.
        core_seconds: Processor time of a step, on all nodes together.
        compute: Share of the time that each layer computes.
        wire: Share of the time that each layer's thread sends and receives.
        resources: Share of the time that each processor pool and line is in use, by name.
    """

    step_seconds: float
    core_seconds: float
    settled: bool
    simulated_steps: int
    compute: tuple[float, ...]
    wire: tuple[float, ...]
    resources: dict[str, float]


class Simulation:
    """One run of some stages over some channels.

    Args:
        stages: Layer 1 first.
        channels: The channels between them.
        wires: The queues of the cluster, not yet used.
    """

    def __init__(self, stages: Sequence[Stage], channels: Sequence[Channel], wires: Wires) -> None:
        self._env = simpy.Environment()
        self._stages, self._wires = stages, wires
        layers = range(1, len(stages) + 1)
        crowds = Counter(stage.worker for stage in stages)
        self._threads = {w: simpy.PriorityResource(self._env) for w, hosted in crowds.items() if hosted > 1}
        self._above = {c.sender: c for c in channels if c.up}
        self._below = {c.receiver: c for c in channels if c.up}
        self._errors_in = {c.receiver: c for c in channels if not c.up}
        self._errors_out: dict[int, list[Channel]] = {layer: [] for layer in layers}
        goes_along = {id(other) for c in channels for other in c.along}
        for c in sorted(channels, key=lambda c: c.receiver):  # in the order of Layer.sends_to
            if not c.up and id(c) not in goes_along:
                self._errors_out[c.sender].append(c)
        self._routes = {id(c): wires.route(stages[c.sender - 1].node, stages[c.receiver - 1].node) for c in channels}
        self._compute, self._wire = [0.0] * len(stages), [0.0] * len(stages)
        self._updates = [0] * len(stages)
        self._missing: list[int] = []
        self._ended: list[simpy.Event] = []
        for layer in layers:
            self._env.process(self._layer(layer))

    def run(self) -> SimulatedStep:
        """Simulate until steps take the same time.

        Raises:
            PlanError: Every layer waits for another.
        """
        marks, lengths = [self._mark()], list[float]()
        settled = False
        while len(lengths) < _MOST_STEPS and not settled:
            self._until_step(len(lengths))
            marks.append(self._mark())
            lengths.append(marks[-1][0] - marks[-2][0])
            last = lengths[-_ALIKE:]
            settled = len(lengths) > _ALIKE and max(last) - min(last) <= _STEADY * max(last)
        window = _ALIKE if settled else len(lengths) // 2
        (began, *before), (now, *after) = marks[-1 - window], marks[-1]
        elapsed = now - began
        compute, wire, used = ([b - a for a, b in zip(x, y, strict=True)] for x, y in zip(before, after, strict=True))
        return SimulatedStep(
            step_seconds=elapsed / window,
            core_seconds=sum(used[: len(self._wires.nodes)]) / window,
            settled=settled,
            simulated_steps=len(lengths),
            compute=tuple(_share(seconds, elapsed) for seconds in compute),
            wire=tuple(_share(seconds, elapsed) for seconds in wire),
            resources={
                name: _share(seconds, elapsed * size)
                for (name, size, _), seconds in zip(self._resources(), used, strict=True)
            },
        )

    def _mark(self) -> tuple[float, list[float], list[float], list[float]]:
        return self._env.now, [*self._compute], [*self._wire], [seconds for _, _, seconds in self._resources()]

    def _resources(self) -> list[tuple[str, int, float]]:
        nodes = self._wires.nodes
        pools = [node.cores for node in nodes] + [node.compute for node in nodes if node.compute is not node.cores]
        lines: list[Line] = self._wires.lines
        return [(p.name, p.size, p.busy_seconds) for p in pools] + [(w.name, 1, w.busy_seconds) for w in lines]

    def _until_step(self, step: int) -> None:
        """Let simulated time pass until every layer has made this update."""
        while len(self._ended) <= step:
            self._begin_count()
        try:
            self._env.run(until=self._ended[step])
        except RuntimeError as exc:  # SimPy raises this when no event is left
            raise PlanError(f"at step {step} every layer is waiting for another: the schedule deadlocks") from exc

    def _begin_count(self) -> None:
        self._ended.append(self._env.event())
        self._missing.append(len(self._stages))

    # -- a layer ------------------------------------------------------------------------------

    def _layer(self, layer: int) -> Generator[simpy.Event, Any, None]:
        stage = self._stages[layer - 1]
        node = self._wires.nodes[stage.node]
        below, above = self._below.get(layer), self._above.get(layer)
        errors_in, errors_out = self._errors_in.get(layer), self._errors_out[layer]
        for operation in stage.operations():
            if isinstance(operation, _PASSES):
                m, is_forward = operation.micro_batch, isinstance(operation, Forward)
                source = below if is_forward else errors_in
                out = ([above] if above else []) if is_forward else errors_out
                before = 0.0
                if source is not None:
                    while not source.arrived:
                        source.news = self._env.event()
                        yield source.news
                    self._take(source)
                    before = source.receive[m]
                seconds = stage.forward[m] if is_forward else stage.learn[m]
                for i, channel in enumerate(out or [None]):
                    first = i == 0
                    send = channel.send[m] if channel else 0.0
                    work = (before if first else 0.0, seconds if first else 0.0, send)
                    yield from self._work(node, layer, *work, forward=is_forward)
                    if channel:
                        while channel.held >= channel.limit:
                            channel.room = self._env.event()
                            yield channel.room
                        channel.held += 1
                        self._dispatch(channel, m)
                if not is_forward and stage.after[m]:
                    yield from self._work(node, layer, 0.0, stage.after[m], 0.0)
            elif isinstance(operation, Update):
                yield from self._work(node, layer, 0.0, stage.update, 0.0)
                self._end_update(layer)

    def _work(
        self, node: Machine, layer: int, before: float, compute: float, after: float, *, forward: bool = False
    ) -> Generator[simpy.Event, Any, None]:
        """Receive, compute and send, in the one thread of the layer's worker."""
        self._compute[layer - 1] += compute
        self._wire[layer - 1] += before + after
        if node.compute is node.cores:
            work = [(node.cores, before + compute + after)]
        else:
            work = [(node.cores, before), (node.compute, compute), (node.cores, after)]
        thread = self._threads.get(self._stages[layer - 1].worker)
        if thread is not None:
            turn = thread.request((len(self._stages) if forward else 0) - layer)
            yield turn
        for pool, seconds in work:
            if seconds:
                now = self._env.now
                yield self._env.timeout(pool.run(now, seconds) - now)
        if thread is not None:
            thread.release(turn)

    def _end_update(self, layer: int) -> None:
        step = self._updates[layer - 1]
        self._updates[layer - 1] += 1
        while len(self._ended) <= step:
            self._begin_count()
        self._missing[step] -= 1
        if not self._missing[step]:
            self._ended[step].succeed()

    # -- a message ----------------------------------------------------------------------------

    def _take(self, channel: Channel) -> None:
        channel.arrived -= 1
        channel.held -= 1
        if channel.room is not None:
            waiting, channel.room = channel.room, None
            waiting.succeed()

    def _dispatch(self, channel: Channel, m: int) -> None:
        """Take a message from the sender's thread to the wire's threads, and send it off."""
        if channel.inside:
            self._arrive(channel)
            return
        now, node = self._env.now, self._wires.nodes[self._stages[channel.sender - 1].node]
        ready = node.cores.interrupt(now, channel.carry[m])
        self._hop(channel, m, ready, ready, 0)

    def _hop(self, channel: Channel, m: int, first: float, last: float, line: int) -> None:
        """The first and last byte reach a line of the route at these times; past the last line the message is there."""
        route = self._routes[id(channel)]
        if line == len(route):
            self._at(last, lambda _: self._deliver(channel, m))
        else:
            self._at(
                first, lambda _: self._hop(channel, m, *route[line].carry(first, last, channel.sizes[m]), line + 1)
            )

    def _deliver(self, channel: Channel, m: int) -> None:
        """The wire's threads take the message; then the layer can have it."""
        cores = self._wires.nodes[self._stages[channel.receiver - 1].node].cores
        self._at(cores.interrupt(self._env.now, channel.carry[m]), lambda _: self._arrive(channel))

    def _arrive(self, channel: Channel) -> None:
        for other in channel.along:
            other.held += 1
            self._arrive(other)
        channel.arrived += 1
        if channel.news is not None:
            waiting, channel.news = channel.news, None
            waiting.succeed()

    def _at(self, when: float, then: Callable[[simpy.Event | None], None]) -> None:
        delay = when - self._env.now
        if delay <= 0:
            then(None)
        else:
            self._env.timeout(delay).callbacks.append(then)


def _share(seconds: float, elapsed: float) -> float:
    """A share, at most 1: work that reaches over an end of the window is counted in full."""
    return min(1.0, seconds / elapsed) if elapsed > 0 else 0.0
