"""Wait until a cluster has the nodes that a run was launched for; say which are there and which are missing."""

from __future__ import annotations

import time
from collections.abc import Callable

from distfa.errors import ClusterError
from distfa.runtime.ray.cluster import cluster_facts, start_ray, stop_ray

_LOOK_SECONDS = 1.0
_WORD_SECONDS = 10.0


def await_nodes(address: str, count: int, *, limit_seconds: float, say: Callable[[str], None]) -> None:
    """Attach to a cluster until ``count`` nodes are alive in it.

    Args:
        address: ``host:port`` or ``auto``.
        count: How many nodes are asked for.
        limit_seconds: Longest wait.
        say: Called every ten seconds with what is there and what is missing, in words.

    Raises:
        ClusterError: The cluster cannot be reached, or still has too few nodes after ``limit_seconds``.
    """
    start_ray(address)
    try:
        began, word = time.monotonic(), 0.0
        while len(there := cluster_facts()) < count:
            waited = time.monotonic() - began
            state = (
                f"{count} nodes are requested, {len(there)} are up ({_list_nodes(there)}), {count - len(there)} missing"
            )
            if waited >= limit_seconds:
                raise ClusterError(
                    f"waited {waited:.0f} s for nodes: {state}; start the others, request fewer (launch.nodes), "
                    "or wait longer (launch.wait_seconds)"
                )
            if waited >= word:
                say(f"waiting for nodes, {waited:.0f} of at most {limit_seconds:.0f} s: {state}")
                word = waited + _WORD_SECONDS
            time.sleep(min(_LOOK_SECONDS, limit_seconds - waited))
        say(f"{len(there)} nodes are up: {_list_nodes(there)}")
    finally:
        stop_ray()


def _list_nodes(nodes: list[tuple[str, str]]) -> str:
    return "; ".join(f"{address}: {has}" for address, has in nodes)
