"""Engines, which carry out a run. Both yield the same records and end with the same weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from distfa import codecs
from distfa.codecs import LOSSLESS
from distfa.codecs.choice import AUTO
from distfa.core.base.kernels import deterministic_kernels
from distfa.core.base.samples import Split
from distfa.core.base.threads import one_thread
from distfa.core.books.records import Record
from distfa.core.serial import SerialTrainer
from distfa.errors import LayerError, SpecError
from distfa.runtime.coordinator import Coordinator, boundary_bytes, bytes_apart
from distfa.runtime.faults import Fault
from distfa.runtime.job import Job, RawInputs, RawTargets, ResumeState, lossy
from distfa.runtime.worker import Snapshot
from distfa.settings import RunSpec
from distfa.transport.message import Direction

T = TypeVar("T")
Modules = Mapping[int, nn.Module]

_LOOK_SECONDS = 0.5  # seconds between checks that Ray itself is alive


class Engine(Protocol):
    """A run: enter it, iterate its records once, ask for its weights."""

    def __enter__(self) -> Engine: ...

    def __exit__(self, *exc: object) -> None: ...

    def records(self, tick: Callable[[], None]) -> Iterator[Record]:
        """Train; yields a record per step and evaluation; calls ``tick`` repeatedly, also while no record comes."""
        ...

    def state(self) -> dict[str, Tensor]:
        """The weights, under the keys of the user's model."""
        ...

    def boundary_bytes(self) -> list[dict[str, Any]] | None:
        """The training traffic so far, one row per boundary; None if there is no wire."""
        ...

    def facts(self) -> dict[str, Any]:
        """Further facts for readers of the result."""
        ...

    @property
    def job(self) -> Job:
        """The run, with its codecs by name."""
        ...

    def errors(self) -> dict[int, str]:
        """The errors, by layer, once ``records`` has failed."""
        ...

    def snapshots(self, step: int) -> Iterable[Snapshot]:
        """The snapshot of every layer in order, at the cut before ``step``, which has just come; may be taken later."""
        ...

    def books(self) -> dict[str, float]:
        """The ``state_dict`` of the books, at a cut."""
        ...

    def again(self, job: Job, begin: ResumeState) -> None:
        """Go on from another step, after layers, nodes or links were lost."""
        ...

    def harm(self, layer: int, fault: Fault) -> None:
        """Cause a fault in a layer, on purpose."""
        ...


class SerialEngine:
    """The oracle: in this process, on one thread; nothing goes over a wire."""

    def __init__(self, job: Job, inputs: RawInputs, targets: RawTargets, modules: Modules, begin: ResumeState) -> None:
        names = [LOSSLESS if name == AUTO else name for name in (job.activations, job.errors)]
        job = replace(job, activations=names[0], errors=names[1])
        recipe = job.recipe
        self._job, self._begin = job, begin
        if job.device == "cuda" and not torch.cuda.is_available():
            raise SpecError("device is 'cuda' but torch sees no GPU here; use device: auto or cpu")
        device = torch.device("cpu" if job.device == "auto" else job.device)
        x, y = inputs.readers(recipe.dtype, device), targets.readers(recipe.dtype, device)
        up, down = job.codec(Direction.UP), job.codec(Direction.DOWN)
        self._recipe = recipe
        self._device, self._computing = device, ExitStack()
        self._make: Callable[[], SerialTrainer] = lambda: SerialTrainer(
            recipe,
            Split(inputs=x[0], targets=y[0]),
            Split(inputs=x[1], targets=y[1]),
            carry_activation=lambda signal: codecs.carry(up, signal),
            carry_error=lambda signal: codecs.carry(down, signal),
            modules=modules,
            device=device,
            lossy=lossy(job),
        )
        self._trainer: SerialTrainer | None = None

    def __enter__(self) -> SerialEngine:
        self._computing.enter_context(one_thread())  # one thread, as in a layer actor, also for the initial weights
        self._computing.enter_context(deterministic_kernels(self._device))
        self._trainer = self._make()
        if self._job.first:
            begin = self._begin
            self._trainer.load_state_dict({"step": self._job.first, "layers": begin.layers, "books": begin.books})
        return self

    def __exit__(self, *exc: object) -> None:
        self._computing.close()

    def records(self, tick: Callable[[], None]) -> Iterator[Record]:
        """Train; there is nobody to wait for, so ``tick`` is not called."""
        return entered(self._trainer).run(elapsed_seconds=self._job.elapsed_seconds)

    @property
    def job(self) -> Job:
        """The run; nothing is sent, so ``auto`` is lossless."""
        return self._job

    def state(self) -> dict[str, Tensor]:
        """The weights, on the CPU."""
        return {key: value.cpu() for key, value in entered(self._trainer).state().items()}

    def boundary_bytes(self) -> None:
        """Nothing travels here."""

    def facts(self) -> dict[str, Any]:
        """There is nothing else to know."""
        return {}

    def errors(self) -> dict[int, str]:
        """Empty: an error of a layer is the error of the run."""
        return {}

    def snapshots(self, step: int) -> Iterable[Snapshot]:
        """Copies, made at once, since the next step changes the layers."""
        state, traffic = entered(self._trainer).state_dict(), self._begin.traffic
        return [
            Snapshot(
                step=step,
                state={name: value.cpu() for name, value in layer.items()},
                traffic={key: sent for key, sent in traffic.items() if key[0].sender == number},
            )
            for number, layer in state["layers"].items()
        ]

    def books(self) -> dict[str, float]:
        """The books of the trainer."""
        return entered(self._trainer).books.state_dict()

    def again(self, job: Job, begin: ResumeState) -> None:
        """Not called: nothing can be lost while this process lives."""
        raise NotImplementedError

    def harm(self, layer: int, fault: Fault) -> None:
        """Refuse: the layers are in this process.

        Raises:
            SpecError: Always.
        """
        raise SpecError("faults can be injected only into layers on Ray; use engine: ray")


class RayEngine:
    """Layer actors on a Ray cluster."""

    def __init__(
        self, spec: RunSpec, job: Job, inputs: RawInputs, targets: RawTargets, modules: Modules, begin: ResumeState
    ) -> None:
        from distfa.runtime.ray.actors import RayRun  # here, so that serial runs need no Ray

        self._job = job
        self._run = RayRun(job, spec.ray, inputs=inputs, targets=targets, modules=modules, begin=begin)
        self._coordinator: Coordinator | None = None

    @property
    def coordinator(self) -> Coordinator:
        """The coordinator, once the engine has been entered."""
        return entered(self._coordinator)

    def __enter__(self) -> RayEngine:
        self._coordinator = self._run.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._run.__exit__(*exc)

    def records(self, tick: Callable[[], None]) -> Iterator[Record]:
        """Train, as long as Ray itself is alive."""
        from distfa.runtime.ray.cluster import require_alive  # here, so that serial runs need no Ray

        looked = time.monotonic()
        for record in self.coordinator.train(tick):
            yield record
            if time.monotonic() > looked + _LOOK_SECONDS:
                require_alive()
                looked = time.monotonic()

    @property
    def job(self) -> Job:
        """The run as its layers know it."""
        return self._run.job

    def state(self) -> dict[str, Tensor]:
        """The weights, gathered through Ray."""
        return self.coordinator.state()

    def errors(self) -> dict[int, str]:
        """As the coordinator saw them."""
        return self.coordinator.errors

    def snapshots(self, step: int) -> Iterator[Snapshot]:
        """The snapshots, fetched from one layer after the other as they are taken."""
        coordinator = self.coordinator
        for layer in range(1, len(self._job.recipe.network) + 1):
            found = coordinator.snapshot(layer, step)
            if found is None:
                raise LayerError(f"the state of layer {layer} before step {step} is gone; a later one has replaced it")
            yield found

    def books(self) -> dict[str, float]:
        """The books of the coordinator."""
        return self.coordinator.books.state_dict()

    def again(self, job: Job, begin: ResumeState) -> None:
        """Replace what died; what lives starts again where it is."""
        self._coordinator = self._run.again(job, begin)

    def harm(self, layer: int, fault: Fault) -> None:
        """Cause it in the layer's process, on whatever node."""
        self._run.harm(layer, fault)

    def boundary_bytes(self) -> list[dict[str, Any]] | None:
        """The traffic of the layers so far."""
        return boundary_bytes(self.coordinator.traffic(), self._job.recipe.network.boundaries)

    def facts(self) -> dict[str, Any]:
        """How the wire was secured, where each layer was, and how long it waited."""
        return {
            "security": self._run.security,
            **({"codec": self._run.codec} if self._run.codec else {}),
            "bytes_apart": bytes_apart(self.coordinator.traffic()),
            "layers": [
                {
                    "layer": layer,
                    "node": self._run.places[layer - 1][1],
                    "ray_node": self._run.places[layer - 1][0],
                    "host": status.host,
                    "pid": status.pid,
                    "step": status.step,
                    "queue": status.queue,
                    "waiting_for": status.waiting_for,
                    "since_seconds": round(status.since_seconds, 1),
                    "busy_seconds": round(status.busy_seconds, 3),
                    "wait_seconds": round(status.wait_seconds, 3),
                    "cpu_seconds": round(status.cpu_seconds, 3),
                }
                for layer, status in sorted(self.coordinator.status.items())
            ],
        }


def entered(value: T | None) -> T:
    """Something that an engine has only inside its ``with`` block."""
    if value is None:
        raise RuntimeError("an engine can be used only inside its 'with' block")
    return value


def build(
    spec: RunSpec, job: Job, *, inputs: RawInputs, targets: RawTargets, modules: Modules, begin: ResumeState
) -> Engine:
    """The engine the spec names, at the step where it begins."""
    if spec.engine == "serial":
        return SerialEngine(job, inputs, targets, modules, begin)
    return RayEngine(spec, job, inputs, targets, modules, begin)


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
