"""Processors, network cards and links as queues in the order of arrival; time in seconds.

A queue knows how long every piece of work takes when it comes. So it can say at once when the work will be done, and
the simulation needs no event for the waiting.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from distfa.plan.cluster import Cluster


class Pool:
    """Several equal processors with one queue.

    Args:
        name: What it is, in words.
        size: How many processors.
        wake_seconds: How long an interrupt waits if all are taken.
    """

    def __init__(self, name: str, size: int, wake_seconds: float = 0.0) -> None:
        self.name, self.size, self._wake_seconds = name, size, wake_seconds
        self.busy_seconds = 0.0
        self._free_at = [0.0] * size

    def run(self, now: float, seconds: float) -> float:
        """The time at which work that comes now will be done."""
        done = max(now, self._free_at[0]) + seconds
        heapq.heapreplace(self._free_at, done)
        self.busy_seconds += seconds
        return done

    def interrupt(self, now: float, seconds: float) -> float:
        """The same for work that does not queue, as threads of the wire that wake up: work in the queue is delayed."""
        begun = now if self._free_at[0] <= now else now + self._wake_seconds
        heapq.heapreplace(self._free_at, max(now, self._free_at[0]) + seconds)
        self.busy_seconds += seconds
        return begun + seconds


@dataclass(kw_only=True)
class Line:
    """One direction of a network card or of a site's link.

    Attributes:
        name: What it is, in words.
        bytes_per_second: Capacity.
        latency_seconds: Delay after the line.
    """

    name: str
    bytes_per_second: float
    latency_seconds: float = 0.0
    busy_seconds: float = 0.0
    _free_at: float = 0.0

    def carry(self, now: float, last: float, size_bytes: int) -> tuple[float, float]:
        """The times at which the first and the last byte of a message leave the far end of the line.

        The line passes on the beginning of a message before it has the end.

        Args:
            now: When the first byte is here.
            last: When the last byte is here.
            size_bytes: Size of the message.
        """
        seconds = size_bytes / self.bytes_per_second
        start = max(now, self._free_at)
        self._free_at = max(start + seconds, last)
        self.busy_seconds += seconds
        return start + self.latency_seconds, self._free_at + self.latency_seconds


@dataclass(kw_only=True)
class Machine:
    """The queues of one node."""

    cores: Pool
    compute: Pool
    out: Line
    into: Line
    site: str


@dataclass(kw_only=True)
class Wires:
    """All queues of a cluster, not yet used.

    Attributes:
        cluster: The cluster.
        wake_seconds: As in ``Calibration``.
        nodes: The nodes of the cluster, in order.
    """

    cluster: Cluster
    wake_seconds: float
    nodes: list[Machine] = field(init=False)
    _ways_out: dict[str, Line] = field(init=False)
    _ways_in: dict[str, Line] = field(init=False)

    def __post_init__(self) -> None:
        network, self.nodes = self.cluster.network, []
        for number, group in enumerate(self.cluster.each):
            cores = Pool(f"the cores of node {number}", group.cores, self.wake_seconds)
            rate = group.nic_bits_per_second / 8
            self.nodes.append(
                Machine(
                    cores=cores,
                    compute=Pool(f"the devices of node {number}", group.devices) if group.devices else cores,
                    out=Line(
                        name=f"node {number}'s network card, outgoing",
                        bytes_per_second=rate,
                        latency_seconds=network.latency_seconds,
                    ),
                    into=Line(name=f"node {number}'s network card, incoming", bytes_per_second=rate),
                    site=group.site,
                )
            )
        between, sites = network.between_sites, dict.fromkeys(group.site for group in self.cluster.nodes)
        rate = between.bits_per_second / 8 if between else 0.0
        latency = between.latency_seconds if between else 0.0
        self._ways_out = {
            s: Line(name=f"the link out of site {s}", bytes_per_second=rate, latency_seconds=latency) for s in sites
        }
        self._ways_in = {s: Line(name=f"the link into site {s}", bytes_per_second=rate) for s in sites}

    @property
    def lines(self) -> list[Line]:
        """All lines."""
        cards = [line for node in self.nodes for line in (node.out, node.into)]
        ways = [*self._ways_out.values(), *self._ways_in.values()]
        return cards + (ways if len(self._ways_out) > 1 else [])

    def route(self, sender: int, receiver: int) -> tuple[Line, ...]:
        """The lines from one node to another; none within a node."""
        if sender == receiver:
            return ()
        a, b = self.nodes[sender], self.nodes[receiver]
        between = () if a.site == b.site else (self._ways_out[a.site], self._ways_in[b.site])
        return (a.out, *between, b.into)
