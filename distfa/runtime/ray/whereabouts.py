"""Finds where each worker's process is, and what is there, with a question to an actor in the worker's reservation.

A question to a node that was unplugged from the network never gets an answer. After half a minute or more Ray gives up
such a node and moves its reservations to other nodes: each question is asked again where its reservation is by then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group_table

from distfa.errors import ClusterError, LayerLost
from distfa.runtime.phases import say_progress
from distfa.runtime.ray.worker_actor import all_of
from distfa.runtime.survey import Facts, surveyor

_LOOK_SECONDS = 1.0  # seconds between checks of where the reservations are


Spot = tuple[str, str]  # node's id and address
Found = tuple[str, str, Facts]  # the same, and what the node said about itself


def host() -> type:
    """The class of the actors; sent as code, see ``survey``: it imports distfa once it is known that it may."""
    survey = surveyor()

    class WorkerHost:
        def where(self) -> Found:
            import ray

            return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address(), survey()

        def hold(self, worker: int) -> None:
            from distfa.runtime.ray.worker_actor import WorkerActor

            self.held = WorkerActor(worker)

        def call(self, method: str, *args: Any) -> Any:
            return getattr(self.held, method)(*args)

    return WorkerHost


def spots(group: PlacementGroup) -> dict[int, Spot]:
    """Where the workers' reservations are now; without those for which Ray looks for another node."""
    alive = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    bundles = placement_group_table(group).get("bundles_to_node_id", {})
    return {index + 1: (node, alive[node]) for index, node in bundles.items() if node in alive}


def locate_workers(
    workers: Mapping[int, str],
    ask: Callable[[int], Future[Found]],
    find_spots: Callable[[], Mapping[int, Spot]],
    limit_seconds: float,
) -> dict[int, Found]:
    """The answer of every worker, from where its reservation is in the end.

    Args:
        workers: Which workers, and each in words.
        ask: Asks in a worker's reservation.
        find_spots: Gives where the reservations are now; without those that are nowhere.
        limit_seconds: Longest wait for all of them.

    Raises:
        DistfaError: Something went wrong at a worker.
        LayerLost: A worker did not answer in time; the message names its node.
        ClusterError: Ray has given up the node of a worker, and no other has taken its place in time.
    """
    began = time.monotonic()
    where: dict[int, Spot | None] = {}
    asked: dict[int, Future[Found]] = {}
    while True:
        now = find_spots()
        for worker in workers:
            if worker not in asked or now.get(worker, where[worker]) != where[worker]:
                where[worker], asked[worker] = now.get(worker), ask(worker)
        seconds = time.monotonic() - began
        left = limit_seconds - seconds
        say_progress(sum(answer.done() for answer in asked.values()), len(asked), seconds, limit_seconds)
        done, late = wait(asked.values(), timeout=max(0.0, min(_LOOK_SECONDS, left)), return_when=FIRST_EXCEPTION)
        if not late or any(answer.exception() for answer in done):
            there = [worker for worker, answer in asked.items() if answer in done]
            answers = all_of({workers[worker]: asked[worker] for worker in there}, "answer", 0.0)
            return dict(zip(there, answers, strict=True))
        if left <= 0:
            worker = next(worker for worker, answer in asked.items() if answer in late)
            why = f"{workers[worker]} did not start a process within {limit_seconds:.0f} s"
            if (spot := now.get(worker)) is None:
                raise ClusterError(f"{why}: {_no_node(len(now))}")  # to ask again would only take as long again
            raise LayerLost(
                f"{why}: node {spot[1]} does not answer, but Ray has not given up on it; check that node and Ray's "
                "logs there, or raise ray.startup_seconds"
            )


def _no_node(left: int) -> str:
    """What to do where workers have lost their node for good.

    Args:
        left: How many workers have a node.
    """
    fewer = f"resume with --set ray.workers={left}, which changes no result, or " if left else ""
    return (
        f"Ray has given up on its node and finds no other with room for it; {fewer}bring a node back and resume "
        "(ray.startup_seconds says how long a run waits for one)"
    )
