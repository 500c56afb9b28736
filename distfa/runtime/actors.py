"""Layer workers as Ray actors; the only file that imports ray.

Ray places the actors, tells when one dies, and ends them with the driver; signals never pass
through it.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch import Tensor, nn

from distfa.errors import ClusterError, DistfaError, LayerLost
from distfa.runtime.coordinator import Coordinator
from distfa.core import order
from distfa.core.routes import reads_labels
from distfa.runtime.job import Job, RawInputs, RawTargets, lossy
from distfa.runtime.worker import LayerWorker, Status
from distfa.transport.grpc_transport import Credentials, GrpcTransport
from distfa.transport.tls import Authority
from distfa.version import __version__

PLACEMENTS = ("pack", "spread", "strict_pack", "strict_spread")
_CALLS_AT_ONCE = 4  # run, status, close, and one to spare
_STORE_FLOOR_BYTES = 128 * 2**20
_REACH_SECONDS = 5.0
_HEALTH_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What Ray reserves for one layer's actor.

    Attributes:
        cpus: Processors; None for an even share of the cluster, at most 1.
        gpus: GPUs; None for an even share where the run uses CUDA.
        custom: Ray custom resources.
    """

    cpus: float | None = None
    gpus: float | None = None
    custom: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Which Ray cluster a run uses, and where on it.

    Attributes:
        address: ``host:port`` or ``auto`` to attach to a running cluster; None to start one here.
        placement: Ray's strategy for the layers' bundles.
        resources: Per layer.
        security: ``auto``: plain text on one machine, mutual TLS across machines; ``tls``; ``insecure``.
        startup_seconds: Longest wait for placement, and for the actors to start.
    """

    address: str | None = None
    placement: str = "pack"
    resources: tuple[Resources, ...]
    security: str = "auto"
    startup_seconds: float = 120.0


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an actor landed, and what runs there."""

    node_id: str
    ip: str
    versions: dict[str, str]


def versions() -> dict[str, str]:
    """Versions that must agree on every node."""
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "torch": torch.__version__,
        "distfa": __version__,
    }


class LayerActor:
    """A ``LayerWorker`` in a process of its own."""

    def __init__(
        self,
        job: Job,
        layer: int,
        inputs: RawInputs | None,
        targets: RawTargets | None,
        module: nn.Module | None,
    ) -> None:
        torch.set_num_threads(1)
        self._job, self._layer = job, layer
        self._worker = LayerWorker(job, layer, inputs=inputs, targets=targets, module=module)

    def place(self) -> Place:
        return Place(
            node_id=ray.get_runtime_context().get_node_id(),
            ip=ray.util.get_node_ip_address(),
            versions=versions(),
        )

    def listen(self, host: str, credentials: Credentials | None) -> str:
        wire = dataclasses.replace(self._job.wire, host=host)
        return self._worker.listen(
            GrpcTransport(wire, run_id=self._job.run_id, layer=self._layer, credentials=credentials)
        )

    def connect(self, addresses: dict[int, str], deadline_seconds: float) -> None:
        self._worker.connect(addresses, deadline_seconds)

    def run(self) -> None:
        self._worker.run()

    def status(self) -> Status:
        return self._worker.status()

    def state(self) -> dict[str, Tensor]:
        return self._worker.state()

    def close(self) -> None:
        self._worker.close()


class ActorHandle:
    """A layer actor, as the coordinator sees it."""

    def __init__(self, layer: int, actor: Any) -> None:
        self.layer = layer
        self.actor = actor

    def call(self, method: str, *args: object) -> Future[Any]:
        """Call a method of the actor; Ray's errors become distfa's."""
        answer: Future[Any] = Future()

        def settle(given: Future[Any]) -> None:
            error = given.exception()
            if error is None:
                answer.set_result(given.result())
            else:
                answer.set_exception(_translate(error))

        getattr(self.actor, method).remote(*args).future().add_done_callback(settle)
        return answer


class RayRun:
    """The actors of one run on a Ray cluster; a context manager that leaves nothing behind.

    Args:
        job: The run.
        cluster: Which cluster, and where on it.
        inputs: For the first layer.
        targets: For the layers that read labels.
        modules: The layers as the user gave them, for those that start from them.
    """

    def __init__(
        self,
        job: Job,
        cluster: ClusterConfig,
        *,
        inputs: RawInputs,
        targets: RawTargets,
        modules: Mapping[int, nn.Module] | None = None,
    ) -> None:
        self._job, self._cluster = job, cluster
        self._inputs, self._targets, self._modules = inputs, targets, modules or {}
        self._started_ray = False
        self._group: PlacementGroup | None = None
        self._handles: list[ActorHandle] = []
        self.security = "insecure"

    def __enter__(self) -> Coordinator:
        """Start everything; returns the coordinator of the connected layers.

        Raises:
            ClusterError: Ray cannot be reached or cannot place the layers.
            DistfaError: A layer could not start or connect.
        """
        try:
            return self._start()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *exc: object) -> None:
        for handle in self._handles:
            ray.kill(handle.actor, no_restart=True)
        if self._group is not None:
            remove_placement_group(self._group)
        if self._started_ray:
            ray.shutdown()

    def _start(self) -> Coordinator:
        room = sum(a.nbytes for a in (self._inputs.train, self._inputs.test, self._targets.train))
        self._started_ray = start_ray(self._cluster.address, store_bytes=_STORE_FLOOR_BYTES + 2 * room)
        bundles = _bundles(self._cluster, self._job)
        job = dataclasses.replace(self._job, device=_device(self._job.device, bundles))
        self._group = _reserve(bundles, self._cluster)
        self._handles = self._create(job, bundles, self._group)
        coordinator = Coordinator(self._handles, deadline_seconds=job.wire.deadline_seconds, lossy=lossy(job), steps=order.steps(job.recipe, job.train_rows))
        limit = self._cluster.startup_seconds
        places: list[Place] = coordinator.gather("place", deadline_seconds=limit)
        addresses = self._listen(places, limit)
        coordinator.connect(addresses, limit)
        return coordinator

    def _create(self, job: Job, bundles: Sequence[Mapping[str, float]], group: PlacementGroup) -> list[ActorHandle]:
        inputs, targets = ray.put(self._inputs), ray.put(self._targets)
        remote = ray.remote(LayerActor)
        handles = []
        for layer, bundle in enumerate(bundles, start=1):
            options = remote.options(
                max_restarts=0,
                max_concurrency=_CALLS_AT_ONCE,
                num_cpus=bundle.get("CPU", 0),
                num_gpus=bundle.get("GPU", 0),
                resources={k: v for k, v in bundle.items() if k not in ("CPU", "GPU")},
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    placement_group=group, placement_group_bundle_index=layer - 1
                ),
            )
            actor = options.remote(
                job,
                layer,
                inputs if layer == 1 else None,
                targets if reads_labels(job.recipe, layer) else None,
                self._modules.get(layer),
            )
            handles.append(ActorHandle(layer, actor))
        return handles

    def _listen(self, places: Sequence[Place], limit_seconds: float) -> dict[int, str]:
        """Let every actor listen: on loopback if all share a node, else on its node's address under TLS."""
        _same_versions(places)
        one_node = len({place.node_id for place in places}) == 1
        security = self._cluster.security
        self.security = ("insecure" if one_node else "tls") if security == "auto" else security
        authority = Authority(self._job.run_id) if self.security == "tls" else None
        explicit = self._job.wire.host
        futures = []
        for handle, place in zip(self._handles, places, strict=True):
            host = explicit or ("127.0.0.1" if one_node else place.ip)
            credentials = authority.issue(f"layer-{handle.layer}") if authority else None
            futures.append(handle.call("listen", host, credentials))
        return {
            handle.layer: str(future.result(timeout=limit_seconds))
            for handle, future in zip(self._handles, futures, strict=True)
        }


def start_ray(address: str | None, *, store_bytes: int = _STORE_FLOOR_BYTES) -> bool:
    """Attach to a Ray cluster, or start one on this machine.

    Args:
        address: ``host:port``, ``auto``, or None for a cluster of our own; a Ray session this process
            already has is used as it is.
        store_bytes: Object store of a cluster of our own.

    Returns:
        Whether the session is ours to end.

    Raises:
        ClusterError: Nothing answers at the address, or Ray does not start.
    """
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is None:
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=store_bytes,
                _system_config={"worker_niceness": 0},  # Ray's default of 15 starves layers beside other work
                **quiet,
            )
        else:
            if address != "auto":
                _reach(address)
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as exc:
        if isinstance(exc, ClusterError):
            raise
        where = f"attach to Ray at {address!r}" if address else "start Ray on this machine"
        raise ClusterError(
            f"cannot {where}: {_first_line(exc)}; is a cluster of the same Ray version ({ray.__version__}) running "
            "there? Without --address, distfa starts its own"
        ) from exc
    return True


def stop_ray() -> None:
    """End this process's Ray session, and the cluster if it is ours."""
    ray.shutdown()


def cluster_facts() -> list[tuple[str, str]]:
    """(address, resources in words) of every live node."""
    return [
        (node["NodeManagerAddress"], _resources_in_words(node["Resources"])) for node in ray.nodes() if node["Alive"]
    ]


def _resources_in_words(resources: Mapping[str, float]) -> str:
    units = {"memory": 2**20, "object_store_memory": 2**20}
    return ", ".join(
        f"{name} {amount / units.get(name, 1):,.0f}{' MiB' if name in units else ''}"
        for name, amount in sorted(resources.items())
        if not name.startswith("node:")
    )


def _reach(address: str) -> None:
    """Ray retries an address that does not answer for minutes; ask first whether a cluster is there.

    Ray's own health check asks, in a process that can be given up.

    Raises:
        ClusterError: Nobody listens there, no Ray cluster does, or it asks for a token.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ClusterError(f"address {address!r} is not host:port (Ray's port is 6379 by default), nor 'auto'")
    fix = f"start one there with 'ray start --head --port={port}', or leave --address out to start one on this machine"
    try:
        socket.create_connection((host, int(port)), timeout=_REACH_SECONDS).close()
    except OSError as exc:
        raise ClusterError(f"no Ray cluster answers at {address}: {exc}; {fix}") from exc
    ask = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        answer = subprocess.run(ask, capture_output=True, text=True, timeout=_HEALTH_SECONDS, check=False)
    except subprocess.TimeoutExpired as exc:
        raise ClusterError(
            f"something listens at {address}, but no Ray cluster answers there within {_HEALTH_SECONDS:.0f} s; {fix}"
        ) from exc
    if "AuthenticationError" in answer.stderr or "InvalidAuthToken" in answer.stderr:
        raise ClusterError(
            f"the Ray cluster at {address} asks for a token; set RAY_AUTH_MODE=token, with the cluster's token in "
            "~/.ray/auth_token or RAY_AUTH_TOKEN ('ray get-auth-token' prints it on the head node)"
        )
    if answer.returncode:
        raise ClusterError(f"no healthy Ray cluster (version {ray.__version__}) answers at {address}; {fix}")


def _bundles(cluster: ClusterConfig, job: Job) -> list[dict[str, float]]:
    """What to reserve for every layer, shares filled in."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    layers = len(job.recipe.network)
    cuda = job.device == "cuda" or (job.device == "auto" and any(node.get("GPU", 0) for node in nodes))
    cpu_share = share([node.get("CPU", 0.0) for node in nodes], layers)
    gpu_share = share([node.get("GPU", 0.0) for node in nodes], layers) if cuda else 0.0
    bundles = []
    for wanted in cluster.resources:
        cpus = cpu_share if wanted.cpus is None else wanted.cpus
        gpus = gpu_share if wanted.gpus is None else wanted.gpus
        bundle = {"CPU": cpus, "GPU": gpus, **wanted.custom}
        bundles.append({key: value for key, value in bundle.items() if value > 0} or {"CPU": 0.001})
    return bundles


def share(per_node: Sequence[float], layers: int) -> float:
    """The largest equal share, at most 1, by which ``layers`` layers fit on nodes of these sizes.

    Ray counts resources in ten-thousandths, so the share is rounded down to four digits; 0 where the
    nodes have nothing.
    """
    candidates = {min(1.0, size / parts) for size in per_node if size > 0 for parts in range(1, layers + 1)}
    for candidate in sorted(candidates, reverse=True):
        rounded = int(candidate * 10_000) / 10_000
        if rounded > 0 and sum(int(size / rounded + 1e-9) for size in per_node) >= layers:
            return rounded
    return 0.0


def _device(asked: str, bundles: Sequence[Mapping[str, float]]) -> str:
    """``cuda`` where asked for, or where auto found GPUs for every layer."""
    if asked != "auto":
        return asked
    return "cuda" if all(bundle.get("GPU", 0) > 0 for bundle in bundles) else "cpu"


def _reserve(bundles: list[dict[str, float]], cluster: ClusterConfig) -> PlacementGroup:
    group = placement_group(bundles, strategy=cluster.placement.upper())
    started = time.monotonic()
    if group.wait(timeout_seconds=cluster.startup_seconds):
        return group
    remove_placement_group(group)
    total = {k: v for k, v in ray.cluster_resources().items() if ":" not in k and "memory" not in k}
    raise ClusterError(
        f"Ray could not place {len(bundles)} layers ({cluster.placement}) within {time.monotonic() - started:.0f} s: "
        f"they ask for {bundles[0]} each, the cluster has {total} in all; ask for less under 'resources', or free the "
        "cluster"
    )


def _same_versions(places: Sequence[Place]) -> None:
    mine = versions()
    for layer, place in enumerate(places, start=1):
        if place.versions != mine:
            raise ClusterError(
                f"layer {layer} on node {place.ip} runs {place.versions}, this process {mine}; install the same "
                "versions on every node: weights would not be reproducible"
            )


def _translate(error: BaseException) -> BaseException:
    """Ray's errors in distfa's terms; the worker's own pass through."""
    if isinstance(error, RayActorError):
        return LayerLost(
            f"its process died ({_first_line(error)}); look for the out-of-memory killer or a crash in that node's log"
        )
    if isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
        if isinstance(error.cause, DistfaError):
            return error.cause
        return LayerLost(f"{type(error.cause).__name__}: {_first_line(error.cause)}")
    return error


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
