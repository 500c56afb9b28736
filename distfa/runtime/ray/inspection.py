"""Looks at every node of a cluster, and at the links between them: versions, GPUs, clocks, ports, bandwidth.

A small actor per node does so. Its class is sent as code and needs only Python's standard library where it runs: a node
with another distfa, or none, must still be able to answer.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distfa.runtime.ray.errors import translate_errors
from distfa.runtime.survey import Facts, surveyor

_ANSWER_SECONDS = 60.0
_SENT_BYTES = 16 * 2**20
_ALL_PAIRS = 6  # up to so many nodes every link is tried; above, each node and the next one


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    """One node.

    Attributes:
        address: Its address.
        facts: Versions of what must be the same on all, by name.
        gpus: Its GPUs, by name.
        clock_seconds: By how much its clock is ahead of this machine's.
        clock_error_seconds: By how much that may be wrong: half of what the question took.
        silent: Why there is nothing else: it did not answer; empty if it did.
    """

    address: str
    facts: Mapping[str, str]
    gpus: Sequence[str] = ()
    clock_seconds: float = 0.0
    clock_error_seconds: float = 0.0
    silent: str = ""


@dataclass(frozen=True, kw_only=True)
class LinkReport:
    """One direction between two nodes.

    Attributes:
        source: Address of the node that sends.
        target: Address of the node that receives.
        seconds: What a connection took.
        bytes_per_second: How fast data went over it.
        refused: Why there was no connection; empty if there was.
    """

    source: str
    target: str
    seconds: float = 0.0
    bytes_per_second: float = 0.0
    refused: str = ""


def inspector() -> type:
    """The class of the actors."""
    survey = surveyor()

    class Inspector:
        def look(self) -> tuple[Facts, list[str]]:
            import importlib.metadata
            import platform
            import shutil
            import subprocess

            facts = {**survey(), "python": platform.python_version(), "ray": importlib.metadata.version("ray")}
            facts.pop("path", None)
            found = ""
            if shutil.which("nvidia-smi"):
                query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
                found = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False).stdout
            return facts, found.splitlines()

        def clock(self) -> float:
            import time

            return time.time()

        def listen(self, host: str) -> int:
            """Take what comes, and answer with a byte at its end; returns the port."""
            import socket
            import threading

            server = socket.create_server((host, 0))

            def serve() -> None:
                while True:
                    taken, _ = server.accept()
                    with taken:
                        while taken.recv(2**20):
                            pass
                        taken.sendall(b".")

            threading.Thread(target=serve, daemon=True).start()
            return int(server.getsockname()[1])

        def send(self, host: str, port: int, count: int) -> tuple[float, float, str]:
            """(seconds to connect, bytes per second, why not) to another one that listens."""
            import socket
            import time

            began = time.perf_counter()
            try:
                with socket.create_connection((host, port), timeout=10.0) as link:
                    connected = time.perf_counter()
                    link.sendall(bytes(count))
                    link.shutdown(socket.SHUT_WR)
                    link.recv(1)
                    return connected - began, count / (time.perf_counter() - connected), ""
            except OSError as exc:
                return 0.0, 0.0, str(exc)

    return Inspector


def inspect_cluster() -> tuple[list[NodeReport], list[LinkReport]]:
    """Every live node and, of several, the links between those that answer.

    Raises:
        ClusterError: Ray itself fails.
    """
    with translate_errors():
        alive = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
        make = ray.remote(inspector())
        actors = {
            node: make.options(
                num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
            ).remote()
            for node in alive
        }
        try:
            asked = {actor.look.remote(): node for node, actor in actors.items()}
            ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_SECONDS)
            nodes = [_report(alive[asked[ref]], actors[asked[ref]], ref if ref in ready else None) for ref in asked]
            heard = {alive[asked[ref]]: actors[asked[ref]] for ref in ready}
            return nodes, _try_links({node.address: heard[node.address] for node in nodes if not node.silent})
        finally:
            for actor in actors.values():
                ray.kill(actor)


def pairs_of(addresses: Sequence[str]) -> list[tuple[str, str]]:
    """The links to try: both directions of all of them, or of a ring if there are many nodes."""
    if len(addresses) <= _ALL_PAIRS:
        return list(itertools.permutations(addresses, 2))
    ring = list(zip(addresses, [*addresses[1:], addresses[0]], strict=True))
    return [*ring, *((b, a) for a, b in ring)]


def _report(address: str, actor: Any, ref: Any) -> NodeReport:
    if ref is None:
        return NodeReport(address=address, facts={}, silent=f"it did not answer within {_ANSWER_SECONDS:.0f} s")
    try:
        facts, gpus = ray.get(ref)
        began = time.time()
        there = ray.get(actor.clock.remote(), timeout=_ANSWER_SECONDS)
        took = time.time() - began
    except ray.exceptions.RayError as exc:
        return NodeReport(address=address, facts={}, silent=str(exc).strip().splitlines()[-1])
    ahead = there - began - took / 2
    return NodeReport(address=address, facts=facts, gpus=gpus, clock_seconds=ahead, clock_error_seconds=took / 2)


def _try_links(actors: Mapping[str, Any]) -> list[LinkReport]:
    """One after the other, so that they do not share the network."""
    if len(actors) < 2:
        return []
    ports = {
        address: ray.get(actor.listen.remote(address), timeout=_ANSWER_SECONDS) for address, actor in actors.items()
    }
    found = []
    for source, target in pairs_of(list(actors)):
        sent = actors[source].send.remote(target, ports[target], _SENT_BYTES)
        seconds, rate, refused = ray.get(sent, timeout=_ANSWER_SECONDS)
        found.append(LinkReport(source=source, target=target, seconds=seconds, bytes_per_second=rate, refused=refused))
    return found
