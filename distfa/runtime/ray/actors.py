"""The workers of a run on a Ray cluster: reserved, placed, connected, and started again after a loss.

Ray places the actors, says when one dies, and ends them with the driver.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from functools import partial
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch import nn

from distfa.codecs.choice import AUTO
from distfa.core.base.memory import own_memory
from distfa.core.routes import reads_labels
from distfa.runtime import placement
from distfa.runtime.auto_codec import choose_codecs
from distfa.runtime.coordinator import Coordinator
from distfa.runtime.faults import Fault
from distfa.runtime.hosting import assign_layers
from distfa.runtime.job import Job, RawInputs, RawTargets, ResumeState, is_lossy
from distfa.runtime.phases import say_phase
from distfa.runtime.placement import Bundle, ClusterConfig, Node
from distfa.runtime.ray import cluster, whereabouts
from distfa.runtime.ray.errors import translate_errors
from distfa.runtime.ray.reserve import reserve
from distfa.runtime.ray.user_code import send_code
from distfa.runtime.ray.worker_actor import ActorHandle, MeasuredActor, all_of, answer_of
from distfa.runtime.survey import require_same_software, surveyor
from distfa.runtime.wiring import Wiring, wire_up
from distfa.runtime.worker import name_worker
from distfa.transport.tls import Authority, Signed

_CALLS_AT_ONCE = 5  # run, status, snapshot, close, and one spare
_ANSWER_SECONDS = 3.0  # a worker that does not end its run in this time is replaced
_STORE_FLOOR_BYTES = 128 * 2**20


class RayRun:
    """The actors of one run on a Ray cluster; a context manager that leaves nothing behind.

    Args:
        job: The run.
        cluster: Which cluster, and where on it.
        inputs: The inputs, for the first layer.
        targets: The targets, for the layers that read labels.
        modules: The user's modules, for the layers that start from them.
        begin: Where the run goes on; left out, it starts from the beginning.
        subkeys: The keys of the layers' noise, by layer, if the run is private; each worker gets its own layers'.

    Attributes:
        security: How the wire is secured: ``tls`` or ``insecure``.
        places: (node's id, node's address) of every worker, once they are known.
        codec: The measurements that the codecs were chosen by, if ``auto`` was asked for.
    """

    def __init__(
        self,
        job: Job,
        cluster: ClusterConfig,
        *,
        inputs: RawInputs,
        targets: RawTargets,
        modules: Mapping[int, nn.Module] | None = None,
        begin: ResumeState | None = None,
        subkeys: Mapping[int, bytes] | None = None,
    ) -> None:
        self._job, self._cluster = job, cluster
        self._begin, self._subkeys = begin or ResumeState(), subkeys or {}
        self._inputs, self._targets, self._modules = inputs, targets, modules or {}
        if cluster.workers != "auto":
            self._assign(())
        self._process = 0  # the process that has a share in the Ray session; a forked child has none
        self._group: PlacementGroup | None = None
        self._bundles: list[Bundle] = []
        self._data: tuple[Any, Any] = (None, None)  # inputs and targets in Ray's store
        self._actors: dict[int, Any] = {}  # by worker
        self._handles: list[ActorHandle] = []
        self.security = "insecure"
        self.places: list[tuple[str, str]] = []
        self.codec: dict[str, Any] | None = None

    def __enter__(self) -> Coordinator:
        """Start everything from ``begin``; returns the coordinator of the connected workers.

        Raises:
            ClusterError: Ray cannot be reached or cannot place the workers, or a node runs other code.
            DistfaError: A worker could not start or connect.
        """
        try:
            with translate_errors():
                self._reserve()
                return self._connected()
        except BaseException:
            self.__exit__()
            raise

    def restart(self, job: Job, begin: ResumeState) -> Coordinator:
        """Start again from another step: workers that answer are built again where they are, the others are replaced.

        Args:
            job: A job with a new run id. Every message carries the id, so no earlier message can be taken for a new
                one.
            begin: Where to continue.

        Raises:
            ClusterError: Ray cannot place what was lost, or Ray itself has ended.
            DistfaError: A layer could not start or connect.
        """
        cluster.require_alive()
        self._job, self._begin = dataclasses.replace(job, device=self._job.device, workers=self._job.workers), begin
        with translate_errors():
            closed = [handle.call("close") for handle in self._handles]
            wait(closed, timeout=_ANSWER_SECONDS)
            lost = [
                handle.worker
                for handle, done in zip(self._handles, closed, strict=True)
                if not done.done() or done.exception() is not None
            ]
            self._place(lost)
            return self._connected()

    def __exit__(self, *exc: object) -> None:
        if self._process != os.getpid():
            return
        self._process = 0
        try:
            if cluster.why_ended() is None:  # if Ray has ended, nobody would answer, and there is nothing to free
                self._free()
        finally:
            cluster.stop_ray()

    @property
    def job(self) -> Job:
        """The run as its layers know it: who hosts them, where to listen, and with which codecs."""
        return self._job

    def inject(self, layer: int, fault: Fault) -> None:
        """Cause a fault in a layer's worker, on purpose; returns at once."""
        self._handles[self._job.worker_of(layer) - 1].call("inject", fault)

    def _free(self) -> None:
        with contextlib.suppress(ray.exceptions.RayError):  # if the cluster is gone, there is nothing to free
            for actor in self._actors.values():
                ray.kill(actor, no_restart=True)
            if self._group is not None:
                remove_placement_group(self._group)

    def _assign(self, nodes: Sequence[Node]) -> None:
        """Assign the layers to workers."""
        job = self._job
        workers = assign_layers(self._cluster, job.recipe, self._modules, nodes, job.device)
        self._job = dataclasses.replace(job, workers=workers)
        self._resources = self._cluster.per_worker(self._job.hosted)
        self._noun = "layer" if len(self._job.hosted) == len(job.recipe.network) else "worker"

    def _reserve(self) -> None:
        """Reserve what the workers need, and start a process for each."""
        room = sum(a.nbytes for a in (self._inputs.train, self._inputs.test, self._targets.train))
        say_phase("Ray")
        cluster.start_ray(self._cluster.address, store_bytes=_STORE_FLOOR_BYTES + 2 * room)
        self._process = os.getpid()
        limit = self._cluster.startup_seconds
        nodes = cluster.nodes()
        if self._cluster.workers == "auto":
            self._assign(nodes)
        self._bundles, device = placement.bundles(self._resources, nodes, self._job.device, self._noun)
        self._job = dataclasses.replace(self._job, device=device)
        say_phase("room for the layers")
        self._group = reserve(
            self._bundles, self._cluster.placement, run_id=self._job.run_id, limit_seconds=limit, noun=self._noun
        )
        with send_code(others=[self._inputs.train]):
            self._data = ray.put(self._inputs), ray.put(self._targets)
        self._place(range(1, len(self._bundles) + 1))

    def _place(self, workers: Sequence[int]) -> None:
        """A process for each of these workers in its reservation; nodes must run the same code as this process."""
        say_phase("layer processes")
        limit, names = self._cluster.startup_seconds, {worker: name_worker(self._job, worker) for worker in workers}
        find_spots = partial(whereabouts.spots, self._group)
        found = whereabouts.locate_workers(names, self._ask_where, find_spots, limit)
        require_same_software(surveyor()(), {names[w]: (address, facts) for w, (_, address, facts) in found.items()})
        held = {name: answer_of(partial(self._actors[worker].hold.remote, worker)) for worker, name in names.items()}
        all_of(held, "start", limit)
        places = dict(enumerate(self.places, start=1)) | {w: (node, address) for w, (node, address, _) in found.items()}
        self.places = [places[worker] for worker in sorted(places)]
        self._handles = [ActorHandle(self._job, worker, actor) for worker, actor in sorted(self._actors.items())]

    def _ask_where(self, worker: int) -> Future[whereabouts.Found]:
        """Ask a new actor in a worker's reservation, which has room for one."""
        if worker in self._actors:
            ray.kill(self._actors[worker], no_restart=True)
        options = {"max_restarts": 0, "max_concurrency": _CALLS_AT_ONCE, **self._options(worker)}
        self._actors[worker] = ray.remote(whereabouts.host()).options(**options).remote()
        return answer_of(self._actors[worker].where.remote)

    def _connected(self) -> Coordinator:
        """The coordinator of the workers, built, listening and connected."""
        limit = self._cluster.startup_seconds
        if AUTO in (self._job.activation_codec, self._job.error_codec):
            measured = [MeasuredActor(handle, self._job.recipe.signal_dtype, limit) for handle in self._handles]
            self._job, self.codec = choose_codecs(self._job, measured, [node for node, _ in self.places])
        job = self._job
        say_phase("layers")
        self._build(job, limit)
        say_phase("connections")
        addresses = self._listen(wire_up(job.wire.host, job.wire.security, self.places), limit)
        coordinator = Coordinator(
            self._handles,
            deadline_seconds=job.wire.deadline_seconds,
            lossy=is_lossy(job),
            steps=job.steps,
            before=self._begin.traffic,
        )
        coordinator.books.load_state_dict(self._begin.books)
        coordinator.connect(addresses, limit)
        return coordinator

    def _build(self, job: Job, limit_seconds: float) -> None:
        """Give every worker its part of the run."""
        inputs, targets = self._data
        own = job.own_parts()
        values = [part.value for part in own]
        with send_code(self._modules.values(), others=values, classes=values):
            asked = {
                str(handle): handle.call(
                    "build",
                    job,
                    own,
                    inputs if 1 in handle.layers else None,
                    targets if any(reads_labels(job.recipe, layer) for layer in handle.layers) else None,
                    {layer: own_memory(self._modules[layer]) for layer in handle.layers if layer in self._modules},
                    {layer: self._begin.layers[layer] for layer in handle.layers if layer in self._begin.layers},
                    {layer: self._subkeys[layer] for layer in handle.layers if self._subkeys},
                )
                for handle in self._handles
            }
        all_of(asked, "start", limit_seconds)

    def _listen(self, wiring: Wiring, limit_seconds: float) -> dict[int, str]:
        """Let every worker listen, under TLS with a certificate for its own key; returns their addresses."""
        self.security = wiring.security
        signed: list[Signed | None] = [None] * len(self._handles)
        if wiring.security == "tls":
            authority = Authority(self._job.run_id)
            asked = {str(handle): handle.call("request") for handle in self._handles}
            requests = all_of(asked, "create a key", limit_seconds)
            signed = [authority.sign(request, worker) for worker, request in enumerate(requests, start=1)]
        asked = {
            str(handle): handle.call("listen", host, advertised, certificate)
            for handle, host, advertised, certificate in zip(
                self._handles, wiring.hosts, wiring.advertised, signed, strict=True
            )
        }
        return dict(enumerate(all_of(asked, "listen", limit_seconds), start=1))

    def _options(self, worker: int) -> dict[str, Any]:
        """Ray's options for what runs in a worker's bundle."""
        bundle = self._bundles[worker - 1]
        return {
            "num_cpus": bundle.get("CPU", 0),
            "num_gpus": bundle.get("GPU", 0),
            "resources": {key: value for key, value in bundle.items() if key not in ("CPU", "GPU")},
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                placement_group=self._group, placement_group_bundle_index=worker - 1
            ),
        }
