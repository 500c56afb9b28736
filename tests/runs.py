"""Helpers that make small runs: serial, and workers as threads over a chosen transport."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from distfa import codecs
from distfa.core.base.activations import Activation
from distfa.core.base.model import Network, plain_network
from distfa.core.base.optim import OptimizerConfig
from distfa.core.base.recipe import CutConfig, FeedbackConfig, LedgerConfig, ProbeConfig, Recipe
from distfa.core.base.samples import Split
from distfa.core.books.records import Record, TimelineRecord
from distfa.core.serial import SerialTrainer
from distfa.runtime.coordinator import Coordinator
from distfa.runtime.in_threads import ThreadHandle
from distfa.runtime.job import Job, RawInputs, RawTargets, is_lossy
from distfa.runtime.worker import Worker
from distfa.transport.base import Tap, WireConfig
from distfa.transport.grpc_transport import GrpcTransport
from distfa.transport.loopback import LoopbackTransport, Switchboard
from distfa.transport.message import Direction

SIZES = (12, 17, 9, 23, 5)


def grouped(changes: dict) -> dict:
    """Fields of a Recipe: those of its parts may stand beside them, and what is not given is off."""
    names = {field.name for field in dataclasses.fields(FeedbackConfig)}
    inside = {name: value for name, value in changes.items() if name in names}
    rest = {name: value for name, value in changes.items() if name not in names}
    for part, config in (("ledger", LedgerConfig), ("probe", ProbeConfig)):
        given = {name: rest.pop(name) for name in list(rest) if name.startswith(f"{part}_")}
        own = {name.removeprefix(f"{part}_"): value for name, value in given.items()}
        rest[part] = config(**{"every": 0, **own})
    rest = {"cuts": CutConfig(every=0), "epochs": 1, "sync_epochs": 0, **rest}
    return rest | ({"feedback": FeedbackConfig(**inside)} if inside else {})


def with_no_paths(network: Network) -> Network:
    """The network, along whose shortcuts nothing comes, so that rule skip can be tried in it as it is."""
    top = network.sizes[-2]
    return dataclasses.replace(
        network, paths={l: torch.zeros(network.sizes[l], top).to_sparse() for l in range(1, len(network) - 1)}
    )


def recipe(sizes=SIZES, *, activation="relu", **changes) -> Recipe:
    """A small recipe; any field may be given."""
    settings = {
        "optimizer": OptimizerConfig(name="sgd", lr=0.05, momentum=0.9, weight_decay=1e-4),
        "batch_size": 16,
        "seed": 7,
        **grouped({"epochs": 2, **changes}),
    }
    slope = 0.1 if activation == "leaky_relu" else 0.0
    network = plain_network(sizes, activation=Activation(name=activation, slope=slope))
    return Recipe(network=with_no_paths(network), **settings)


def blobs(features: int, classes: int, rows: int = 75, seed: int = 0):
    """(x, y): Gaussian blobs, one per class."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, rows)
    centres = rng.standard_normal((classes, features))
    return (centres[y] + 0.5 * rng.standard_normal((rows, features))).astype(np.float64), y


def raw(recipe: Recipe, rows: int = 75, test_rows: int = 20) -> tuple[RawInputs, RawTargets]:
    """Data for a recipe."""
    x, y = blobs(recipe.network.sizes[0], recipe.network.sizes[-1], rows + test_rows)
    one = np.ones(1)
    return (
        RawInputs(train=x[:rows], test=x[rows:], mean=0.1 * one, std=1.3 * one),
        RawTargets(train=y[:rows], test=y[rows:]),
    )


def run_serial(
    recipe: Recipe, data=None, *, activations="lossless", errors="lossless", modules=None, device="cpu", noise=None
) -> tuple[dict[str, Tensor], list[Record], SerialTrainer]:
    """(weights, records, trainer) of the oracle."""
    torch.set_num_threads(1)
    inputs, targets = data or raw(recipe)
    x, y = (
        inputs.readers(recipe.dtype, torch.device(device)),
        targets.readers(recipe.dtype, torch.device(device)),
    )
    up, down = codecs.resolve(activations, recipe.signal_dtype), codecs.resolve(errors, recipe.signal_dtype)
    trainer = SerialTrainer(
        recipe,
        Split(inputs=x[0], targets=y[0]),
        Split(inputs=x[1], targets=y[1]),
        carry_activation=lambda signal: codecs.carry(up, signal),
        carry_error=lambda signal: codecs.carry(down, signal),
        modules=modules,
        device=device,
        noise=noise,
        lossy=not (up.lossless(recipe.signal_dtype) and down.lossless(recipe.signal_dtype)),
    )
    records = list(trainer.run())
    return trainer.state(), records, trainer


class ThreadRun:
    """Workers as threads, over gRPC or loopback; use as a context manager."""

    def __init__(
        self,
        recipe: Recipe,
        data=None,
        *,
        transport: str = "grpc",
        wire: WireConfig = WireConfig(),
        activations: str = "lossless",
        errors: str = "lossless",
        device: str = "cpu",
        tap: Tap | None = None,
        modules=None,
        span: tuple[int, int | None] = (0, None),
        resume=None,
        workers=(),
        subkeys=None,
        wrap_transport=lambda layer, transport: transport,
    ) -> None:
        torch.set_num_threads(1)
        inputs, targets = data or raw(recipe)
        self.job = Job(
            run_id="test-run",
            recipe=recipe,
            wire=wire,
            activation_codec=activations,
            error_codec=errors,
            device=device,
            train_rows=len(inputs.train),
            test_rows=len(inputs.test),
            first=span[0],
            stop=span[1],
            workers=workers,
        )
        switchboard = Switchboard()
        self.handles = []
        for number in range(1, len(self.job.hosted) + 1):
            given = {"modules": modules, "resume": resume, "tap": tap, "subkeys": subkeys}
            worker = Worker(self.job, number, inputs=inputs, targets=targets, **given)
            self.handles.append(ThreadHandle(self.job, number, worker))
        self.coordinator = Coordinator(
            self.handles,
            deadline_seconds=wire.deadline_seconds,
            lossy=is_lossy(self.job),
            steps=self.job.steps,
        )
        self.addresses = {}
        for handle in self.handles:
            made = (
                GrpcTransport(wire, run_id=self.job.run_id, worker=handle.worker, worker_of=self.job.worker_of)
                if transport == "grpc"
                else LoopbackTransport(switchboard)
            )
            self.addresses[handle.worker] = handle.hosted.listen(wrap_transport(handle.worker, made))

    def train(self) -> tuple[dict[str, Tensor], list[Record]]:
        """(weights, records) of the whole run; what engines need not agree on is in ``timelines``."""
        self.coordinator.connect(self.addresses, 10.0)
        records = list(self.coordinator.train())
        self.timelines = [record for record in records if isinstance(record, TimelineRecord)]
        records = [record for record in records if not isinstance(record, TimelineRecord)]
        return self.coordinator.state(), records

    def __enter__(self) -> ThreadRun:
        return self

    def __exit__(self, *exc: object) -> None:
        for handle in self.handles:
            handle.close()


def run_threads(recipe: Recipe, data=None, **options) -> tuple[dict[str, Tensor], list[Record]]:
    """(weights, records) of layer workers as threads."""
    with ThreadRun(recipe, data, **options) as run:
        return run.train()


def by_kind(records):
    """Records in an order that does not depend on which layer was heard first."""
    keys = ("step", "boundary", "direction", "micro_batch")
    return sorted(records, key=lambda r: (type(r).__name__, *(getattr(r, key, 0) for key in keys)))


def assert_same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """Every weight equal, bit for bit."""
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), f"{key}: {(a[key] - b[key]).abs().max()} apart"


__all__ = [
    "Direction",
    "ThreadRun",
    "assert_same_bits",
    "blobs",
    "by_kind",
    "raw",
    "recipe",
    "run_serial",
    "run_threads",
]
