"""A test kit for rules of one's own: ``check_rule`` holds a rule against what distfa promises of every rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distfa.core import rules, schedule
from distfa.core.base.activations import Activation
from distfa.core.base.model import Network, plain_network
from distfa.core.base.optim import OptimizerConfig
from distfa.core.base.recipe import SCHEDULES, CutConfig, LedgerConfig, ProbeConfig, Recipe
from distfa.core.base.samples import Split
from distfa.core.base.threads import use_threads
from distfa.core.books.digest import DigestRecord, describe_difference
from distfa.core.books.ledger import LedgerRecord, describe_violation
from distfa.core.books.records import Record, TimelineRecord
from distfa.core.serial import SerialTrainer
from distfa.runtime.coordinator import Coordinator, boundary_bytes
from distfa.runtime.in_threads import ThreadHandle
from distfa.runtime.job import Job, RawInputs, RawTargets
from distfa.runtime.worker import Worker
from distfa.sections.division import Division
from distfa.sections.split import split
from distfa.transport.loopback import LoopbackTransport, Switchboard

_SIZES = (12, 17, 9, 23, 5)
_ROWS, _TEST_ROWS, _BATCH, _PARTS = 60, 16, 16, 4


@dataclass(frozen=True, kw_only=True)
class _Case:
    """A run that a rule is tried in."""

    title: str
    recipe: Recipe
    inputs: RawInputs
    targets: RawTargets
    modules: Mapping[int, nn.Module]


def check_rule(rule: type[rules.Rule] | str) -> None:
    """Hold a rule against what distfa promises of every rule, on small networks; takes a few seconds.

    It is trained in order, and by workers that send each other messages (loopback, threads), from aligned and from
    random feedback, under ``sync`` and, where its errors come soon enough, under ``async``. Checked are: both train the
    same weights and report the same records, bit for bit; both ends of every boundary used the same signals; where the
    rule has a potential, its law holds: both ends find the same pairing <s, h>, and ``field`` is the gradient of
    ``phi``; a message has the bytes that ``shape`` declares; a run that resumes is the whole run.

    Args:
        rule: The class, or its name.

    Raises:
        AssertionError: It breaks one of these; the message says which, and where.
        SpecError: It is no rule.
    """
    name = rules.RULES.adopt(rule)
    found = rules.RULES[name]
    with use_threads(1):
        for case in filter(lambda case: schedule.flows(case.recipe), _cases(name)):
            trainer, weights, records = _serial(case)
            _check_workers(case, weights, records)
            _check_books(case, found, records)
            _check_resume(case, weights)
            if found.potential:
                _check_field(case.title, trainer)


def _cases(name: str) -> Iterator[_Case]:
    torch.manual_seed(0)
    plain = plain_network(_SIZES, activation=Activation(name="tanh"))
    model = nn.Sequential(
        nn.Linear(12, 17), nn.LayerNorm(17), nn.ReLU(), nn.Linear(17, 9), nn.Tanh(), nn.Linear(9, 5)
    ).double()
    modules = dict(enumerate(Division.usual(model).parts(model), start=1))
    for init in ("aligned", "random"):
        for order in SCHEDULES:
            yield _case(f"{init}, {order}, a network of Linears", name, plain, {}, init=init, schedule=order)
        yield _case(f"{init}, sync, a network with a LayerNorm", name, split(model, (12,)), modules, init=init)


def _case(title: str, name: str, network: Network, modules: Mapping[int, nn.Module], **settings: Any) -> _Case:
    recipe = Recipe(
        network=network,
        rule=name,
        optimizer=OptimizerConfig(name="sgd", lr=0.05, momentum=0.9),
        epochs=1,
        batch_size=_BATCH,
        micro_batches=_PARTS,
        sync_epochs=0,
        dtype=torch.float64,
        ledger=LedgerConfig(every=1, exact=True),
        probe=ProbeConfig(every=2),
        cuts=CutConfig(every=2),
        **settings,
    )
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((_ROWS + _TEST_ROWS, 12)), rng.integers(0, 5, _ROWS + _TEST_ROWS)
    one = np.ones(1)
    inputs = RawInputs(train=x[:_ROWS], test=x[_ROWS:], mean=0 * one, std=one, shape=network.shapes[0])
    targets = RawTargets(train=y[:_ROWS], test=y[_ROWS:])
    return _Case(title=title, recipe=recipe, inputs=inputs, targets=targets, modules=modules)


def _trainer(case: _Case) -> SerialTrainer:
    cpu = torch.device("cpu")
    x, y = case.inputs.readers(case.recipe.dtype, cpu), case.targets.readers(case.recipe.dtype, cpu)
    splits = (Split(inputs=x[which], targets=y[which]) for which in (0, 1))
    return SerialTrainer(case.recipe, *splits, modules=case.modules)


def _serial(case: _Case) -> tuple[SerialTrainer, dict[str, Tensor], list[Record]]:
    trainer = _trainer(case)
    records = list(trainer.run())
    return trainer, trainer.state(), records


def _check_workers(case: _Case, weights: Mapping[str, Tensor], records: list[Record]) -> None:
    """Workers must train what the serial engine trains, and send what the rule declares."""
    job = Job(run_id="check", recipe=case.recipe, train_rows=_ROWS, test_rows=_TEST_ROWS)
    switchboard = Switchboard()
    handles, addresses = [], {}
    try:
        for number in range(1, len(job.hosted) + 1):
            worker = Worker(job, number, inputs=case.inputs, targets=case.targets, modules=dict(case.modules))
            handles.append(ThreadHandle(job, number, worker))
            addresses[number] = worker.listen(LoopbackTransport(switchboard))
        coordinator = Coordinator(handles, deadline_seconds=30.0, lossy=False, steps=job.steps)
        coordinator.connect(addresses, 10.0)
        wired = [record for record in coordinator.train() if not isinstance(record, TimelineRecord)]
        state, traffic = coordinator.state(), coordinator.traffic()
    finally:
        for handle in handles:
            handle.close()
    _require_equal(case.title, "workers", state, weights)
    _require(
        len(wired) == len(records) and all(record in records for record in wired),
        f"{case.title}: workers report other losses or entries in the books than the serial engine",
    )
    rule = rules.build_rule(case.recipe)
    rows = _ROWS * case.recipe.epochs
    for sent in boundary_bytes(traffic, case.recipe.network.boundaries):
        boundary, found = sent["boundary"], sent["down_payload"]
        declared = rows * rule.width(boundary) * case.recipe.signal_dtype.itemsize
        if not rule.ever_renews:
            _require(
                found == declared,
                f"{case.title}: shape({boundary}) declares {declared:,} bytes down across boundary {boundary}, but "
                f"{found:,} were sent",
            )


def _check_books(case: _Case, rule: type[rules.Rule], records: list[Record]) -> None:
    """Both ends must agree on every signal and, under a law, on every entry."""
    entered = {record.boundary for record in records if isinstance(record, LedgerRecord)}
    if rule.potential:
        _require(
            entered == set(case.recipe.network.boundaries),
            f"{case.title}: the rule has a potential, but boundaries {sorted(entered)} alone have entries",
        )
    for record in records:
        broken = None
        if isinstance(record, LedgerRecord):
            broken = describe_violation(record)
        elif isinstance(record, DigestRecord):
            broken = describe_difference(record)
        _require(broken is None, f"{case.title}: {broken}")


def _check_resume(case: _Case, weights: Mapping[str, Tensor]) -> None:
    """A run that stops after two steps and goes on in another process must be the whole run."""
    first, second = _trainer(case), _trainer(case)
    for _ in first.run(stop=2):
        pass
    second.load_state_dict(first.state_dict())
    for _ in second.run():
        pass
    _require_equal(case.title, "a run that resumed after two steps", second.state(), weights)


def _check_field(title: str, trainer: SerialTrainer) -> None:
    """What the rule calls the gradient of its potential must be it."""
    for layer in trainer.layers[1:]:
        fixed, spec = layer.ends.matrix_of_the_law(), layer.spec
        if layer.rule.is_direct or layer.rule.potential_layer(layer.index - 1) != layer.index or not spec.linear_in:
            continue
        weight = layer.weight.detach().flatten(1).clone().requires_grad_()
        (gradient,) = torch.autograd.grad(layer.rule.phi(weight, fixed).sum(), weight)
        field = layer.rule.field(weight, fixed).detach()
        _require(
            torch.allclose(gradient, field, atol=1e-12),
            f"{title}: field is not the gradient of phi at layer {layer.index}: they differ by "
            f"{(gradient - field).abs().max():.3g}",
        )


def _require_equal(title: str, who: str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    for key, value in wanted.items():
        _require(
            torch.equal(found[key], value),
            f"{title}: {who} trained another {key} than the serial engine, {(found[key] - value).abs().max():.3g} "
            "apart; whatever the rule draws must depend on nothing but the recipe's seed and its place",
        )


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)
