"""Engines, which carry out a run. Both yield the same records and end with the same weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from distfa import codecs
from distfa.codecs import LOSSLESS
from distfa.codecs.choice import AUTO
from distfa.core.base.kernels import deterministic_kernels
from distfa.core.base.samples import Split
from distfa.core.base.threads import use_threads
from distfa.core.books.records import Record
from distfa.core.serial import SerialTrainer
from distfa.costs.computed_bytes import computed_bytes
from distfa.errors import LayerError, SpecError
from distfa.privacy.stream import Stream
from distfa.runtime.coordinator import Coordinator, boundary_bytes, bytes_apart
from distfa.runtime.faults import Fault
from distfa.runtime.hosted_layer import Snapshot
from distfa.runtime.job import Job, RawInputs, RawTargets, ResumeState, is_lossy
from distfa.runtime.worker import WorkerStatus
from distfa.runtime.worker_ports import sharing
from distfa.settings import RunSpec
from distfa.transport.message import Direction, Kind, Link
from distfa.transport.port import Traffic

if TYPE_CHECKING:
    from distfa.runtime.ray.actors import RayRun

T = TypeVar("T")
Modules = Mapping[int, nn.Module]
Subkeys = Mapping[int, bytes]
_NO_KEYS: Subkeys = {}

_LOOK_SECONDS = 0.5  # seconds between checks that Ray itself is alive


class Engine(Protocol):
    """Carries out a run: start it, iterate its records, ask for its weights, and close it in any case."""

    def start(self, job: Job, begin: ResumeState) -> None:
        """Start at a step of the run; once more after layers, nodes or links were lost, to replace them."""

    @property
    def job(self) -> Job:
        """The run it was last started with, with its codecs by name."""

    def records(self, tick: Callable[[], None]) -> Iterator[Record]:
        """Train; yields a record per step and evaluation; calls ``tick`` repeatedly, also while no record comes."""

    def state(self) -> dict[str, Tensor]:
        """The weights, under the keys of the user's model."""

    def snapshots(self, step: int) -> Iterable[Snapshot]:
        """The snapshot of every layer in order, at the cut before ``step``, which has just come; may be taken later."""

    def books(self) -> dict[str, float]:
        """The ``state_dict`` of the books, at a cut."""

    def boundary_bytes(self, *, rows: int, renewals: int) -> list[dict[str, Any]]:
        """The bytes of training so far, one row per boundary: counted on the wire, or computed where there is none.

        Args:
            rows: Training rows so far.
            renewals: How often feedback was renewed so far.
        """

    def facts(self) -> dict[str, Any]:
        """Further facts for a reader of the result."""

    def errors(self) -> dict[int, str]:
        """The errors of layers, by layer, once ``records`` has failed."""

    def close(self) -> None:
        """End what was started; figures can still be asked for."""


class SerialEngine:
    """The oracle: in this process; nothing goes over a wire."""

    job: Job

    def __init__(self, inputs: RawInputs, targets: RawTargets, modules: Modules, subkeys: Subkeys = _NO_KEYS) -> None:
        self._inputs, self._targets, self._modules = inputs, targets, modules
        self._noise = {layer: Stream(key) for layer, key in subkeys.items()}
        self._computing = ExitStack()
        self._traffic: Mapping[tuple[Link, Kind], Traffic] = {}
        self._trainer: SerialTrainer | None = None

    def start(self, job: Job, begin: ResumeState) -> None:
        """Build all layers; nothing is sent, so ``auto`` is lossless.

        Raises:
            SpecError: There is no GPU, and the job asks for one.
        """
        names = [LOSSLESS if name == AUTO else name for name in (job.activation_codec, job.error_codec)]
        self.job = job = replace(job, activation_codec=names[0], error_codec=names[1])
        if job.device == "cuda" and not torch.cuda.is_available():
            raise SpecError("device is 'cuda' but torch sees no GPU here; use device: auto or cpu")
        recipe, device = job.recipe, torch.device("cpu" if job.device == "auto" else job.device)
        self.close()
        self._computing.enter_context(use_threads(recipe.threads))  # as in a worker, also for the initial weights
        self._computing.enter_context(deterministic_kernels(device))
        x, y = self._inputs.readers(recipe.dtype, device), self._targets.readers(recipe.dtype, device)
        up, down = job.codec(Direction.UP), job.codec(Direction.DOWN)
        self._trainer = SerialTrainer(
            recipe,
            Split(inputs=x[0], targets=y[0]),
            Split(inputs=x[1], targets=y[1]),
            carry_activation=lambda signal: codecs.carry(up, signal),
            carry_error=lambda signal: codecs.carry(down, signal),
            modules=self._modules,
            device=device,
            lossy=is_lossy(job),
            noise=self._noise,
        )
        if job.first:
            self._trainer.load_state_dict({"step": job.first, "layers": begin.layers, "books": begin.books})
        self._traffic = begin.traffic

    def records(self, tick: Callable[[], None]) -> Iterator[Record]:
        """Train; there is nobody to wait for, so ``tick`` is not called."""
        return started(self._trainer).run(elapsed_seconds=self.job.elapsed_seconds)

    def state(self) -> dict[str, Tensor]:
        """The weights, on the CPU."""
        return {key: value.cpu() for key, value in started(self._trainer).state().items()}

    def snapshots(self, step: int) -> Iterable[Snapshot]:
        """Copies, made at once, since the next step changes the layers."""
        return [
            Snapshot(
                step=step,
                state={name: value.cpu() for name, value in layer.items()},
                traffic={key: sent for key, sent in self._traffic.items() if key[0].sender == number},
            )
            for number, layer in started(self._trainer).state_dict()["layers"].items()
        ]

    def books(self) -> dict[str, float]:
        """The books of the trainer."""
        return started(self._trainer).books.state_dict()

    def boundary_bytes(self, *, rows: int, renewals: int) -> list[dict[str, Any]]:
        """The bytes that a wire would have carried, from shapes."""
        up, down = self.job.codec(Direction.UP), self.job.codec(Direction.DOWN)
        return computed_bytes(self.job.recipe, rows=rows, renewals=renewals, up=up, down=down)

    def facts(self) -> dict[str, Any]:
        """There is nothing else to know."""
        return {}

    def errors(self) -> dict[int, str]:
        """Empty: an error of a layer is the error of the run."""
        return {}

    def close(self) -> None:
        """Let torch compute as it did before."""
        self._computing.close()


class RayEngine:
    """Layer actors on a Ray cluster."""

    def __init__(
        self, spec: RunSpec, inputs: RawInputs, targets: RawTargets, modules: Modules, subkeys: Subkeys = _NO_KEYS
    ) -> None:
        self._cluster, self._inputs, self._targets, self._modules = spec.ray, inputs, targets, modules
        self._subkeys = subkeys
        self._run: RayRun | None = None
        self._coordinator: Coordinator | None = None
        self._sharing: Mapping[int, Sequence[int]] = {}  # the layers that get the same errors

    @property
    def coordinator(self) -> Coordinator:
        """The coordinator, once the engine has been started."""
        return started(self._coordinator)

    def start(self, job: Job, begin: ResumeState) -> None:
        """Start all layers; the next time replace what died, while what lives starts again where it is."""
        from distfa.runtime.ray.actors import RayRun  # here, so that serial runs need no Ray

        if self._run is not None:
            self._coordinator = self._run.restart(job, begin)
            return
        found = RayRun(
            job,
            self._cluster,
            inputs=self._inputs,
            targets=self._targets,
            modules=self._modules,
            begin=begin,
            subkeys=self._subkeys,
        )
        self._coordinator = found.__enter__()
        self._run, self._sharing = found, sharing(found.job)

    @property
    def job(self) -> Job:
        """The run as its layers know it."""
        return started(self._run).job

    def records(self, tick: Callable[[], None]) -> Iterator[Record]:
        """Train, as long as Ray itself is alive."""
        from distfa.runtime.ray.cluster import require_alive  # here, so that serial runs need no Ray

        looked = time.monotonic()
        for record in self.coordinator.train(tick):
            yield record
            if time.monotonic() > looked + _LOOK_SECONDS:
                require_alive()
                looked = time.monotonic()

    def state(self) -> dict[str, Tensor]:
        """The weights, gathered through Ray."""
        return self.coordinator.state()

    def errors(self) -> dict[int, str]:
        """As the coordinator saw them."""
        return self.coordinator.errors

    def snapshots(self, step: int) -> Iterator[Snapshot]:
        """The snapshots, fetched from one layer after the other as they are taken."""
        coordinator = self.coordinator
        for layer in range(1, len(self.job.recipe.network) + 1):
            found = coordinator.snapshot(layer, step)
            if found is None:
                raise LayerError(f"the state of layer {layer} before step {step} is gone; a later one has replaced it")
            yield found

    def books(self) -> dict[str, float]:
        """The books of the coordinator."""
        return self.coordinator.books.state_dict()

    def close(self) -> None:
        """End all layers."""
        if self._run is not None:
            self._run.__exit__()

    def inject(self, layer: int, fault: Fault) -> None:
        """Cause a fault in the layer's process, on whatever node."""
        started(self._run).inject(layer, fault)

    def boundary_bytes(self, *, rows: int, renewals: int) -> list[dict[str, Any]]:
        """The bytes that the layers have sent so far."""
        return boundary_bytes(self.coordinator.traffic(), self.job.recipe.network.boundaries, self._sharing)

    def facts(self) -> dict[str, Any]:
        """How the wire was secured, where each layer and worker was, and how long it waited."""
        run, workers = started(self._run), self.coordinator.workers
        return {
            "security": run.security,
            **({"codec": run.codec} if run.codec else {}),
            "bytes_apart": bytes_apart(self.coordinator.traffic()),
            "layers": [
                {
                    "layer": status.layer,
                    "worker": number,
                    **_whereabouts(worker, run.places[number - 1]),
                    "step": status.step,
                    "queue": status.queue,
                    "waiting_for": status.waiting_for,
                    "since_seconds": round(status.since_seconds, 1),
                    "busy_seconds": round(status.busy_seconds, 3),
                    "wait_seconds": round(status.wait_seconds, 3),
                }
                for number, worker in sorted(workers.items())
                for status in worker.layers
                if not status.replica
            ],
            "workers": [
                {
                    "worker": number,
                    "layers": [status.layer for status in worker.layers],
                    **({"replica": self.job.replica_of(number)} if self.job.recipe.replicas > 1 else {}),
                    **_whereabouts(worker, run.places[number - 1]),
                    "cpu_seconds": round(worker.cpu_seconds, 3),
                }
                for number, worker in sorted(workers.items())
            ],
        }


def _whereabouts(worker: WorkerStatus, place: tuple[str, str]) -> dict[str, Any]:
    return {"node": place[1], "ray_node": place[0], "host": worker.host, "pid": worker.pid}


def started(value: T | None) -> T:
    """Something that an engine has only once it has been started."""
    if value is None:
        raise RuntimeError("an engine can be used only once it has been started")
    return value


def build_engine(
    spec: RunSpec, *, inputs: RawInputs, targets: RawTargets, modules: Modules, subkeys: Subkeys = _NO_KEYS
) -> Engine:
    """The engine the spec names; a private run has a key for the noise of every layer."""
    if spec.engine == "serial":
        return SerialEngine(inputs, targets, modules, subkeys)
    return RayEngine(spec, inputs, targets, modules, subkeys)


class Clock:
    """Startup and training time of a run."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.startup_seconds = 0.0

    def started(self) -> None:
        """Training is about to begin."""
        self.startup_seconds = time.monotonic() - self.began

    @property
    def wall_seconds(self) -> float:
        """Seconds since the run began, including the start."""
        return time.monotonic() - self.began

    @property
    def trained_seconds(self) -> float:
        """Seconds since training began."""
        return self.wall_seconds - self.startup_seconds
