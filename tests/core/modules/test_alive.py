"""Modules that are alive are trained as torch's own loop trains them, on every engine, through probes and resumes."""

import copy
import random
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from alive import LIVE, WIDTH, around
from cases import in_turn
from runs import ThreadRun, assert_same_bits, run_serial
from torch import nn
from zoo import prepared

from distfa.core.base.draw import micro_batch_seed
from distfa.core.base.optim import OptimizerConfig
from distfa.core.base.order import batches
from distfa.core.base.recipe import LedgerConfig, ProbeConfig
from distfa.core.base.samples import Split
from distfa.core.books.probe import ProbeRecord
from distfa.core.books.records import EvalRecord
from distfa.core.serial import SerialTrainer

SGD = OptimizerConfig(name="sgd", lr=0.05, momentum=0.9, weight_decay=0.01)
TIMES = {EvalRecord: {"seconds": 0.0}}
ADAM = OptimizerConfig(name="adam", lr=3e-3, weight_decay=1e-3)


def case(name, **settings):
    """(recipe, modules, data, model); the last of three batches of an epoch is smaller."""
    torch.manual_seed(1)
    model = around(LIVE[name]())
    given = {"rule": "bp", "optimizer": SGD, "rows": 19, "test_rows": 5, "epochs": 3, **settings}
    return *prepared(model, (WIDTH,), 3, **given), model


def seed_all(seed):
    torch.default_generator.manual_seed(seed)  # torch.manual_seed takes a thousand times as long
    np.random.seed(seed % 2**32)
    random.seed(seed)


def plain_torch(recipe, modules, data):
    """torch's own loop over the same batches, each layer's draws seeded as a run seeds them; returns the model."""
    (x, _), (y, _) = (side.readers(recipe.dtype, torch.device("cpu")) for side in data)
    parts = [copy.deepcopy(modules[number]) for number in sorted(modules)]
    own = nn.ModuleList(parts)
    c = recipe.optimizer
    kind = torch.optim.SGD if c.name == "sgd" else torch.optim.Adam
    more = {"momentum": c.momentum} if c.name == "sgd" else {}
    optimizer = kind(own.parameters(), lr=c.lr, weight_decay=c.weight_decay, **more)
    for batch in batches(recipe, len(x)):
        optimizer.zero_grad()
        for m, rows in enumerate(batch.parts):
            h = x.read(rows)
            for number, part in enumerate(parts, start=1):
                seed_all(micro_batch_seed(recipe.seed, number, batch.step, m))
                h = part(h)
            seed_all(micro_batch_seed(recipe.seed, 2, batch.step, m))  # what the second layer draws on its way back
            loss = nn.functional.cross_entropy(h, y.read(rows), reduction="sum") / batch.rows
            loss.backward()
        optimizer.step()
    return {key: value for part in parts for key, value in part.state_dict().items()}


@in_turn(name=LIVE, how=product([SGD, ADAM], [1, 3]))
def test_bp_is_torchs_own_loop(name, how):
    optimizer, micro_batches = how
    r, modules, data, _ = case(name, dtype=torch.float64, optimizer=optimizer, micro_batches=micro_batches)
    expected = plain_torch(r, {number: part.double() for number, part in modules.items()}, data)
    weights, _, _ = run_serial(r, data, modules=modules)
    for key, value in expected.items():
        torch.testing.assert_close(weights[key], value, rtol=1e-9, atol=1e-12, msg=lambda m, k=key: f"{k}: {m}")


@in_turn(name=LIVE, how=[("fa", "sync"), ("dkp", "async"), ("dfa", "sync")])
def test_probes_evaluations_and_books_change_nothing_and_workers_equal_serial(name, how):
    rule, schedule = how
    rule = "drtp" if (name, rule) == ("Merging", "fa") else rule  # no feedback stands in for its bare matrices
    r, modules, data, _ = case(name, rule=rule, schedule=schedule, micro_batches=4)
    bare, _, _ = run_serial(r, data, modules=modules)
    watched = replace(r, probe=ProbeConfig(every=1), ledger=LedgerConfig(every=1, exact=True), eval_every=1)
    serial, records, _ = run_serial(watched, data, modules=modules)
    assert_same_bits(bare, serial)
    with ThreadRun(watched, data, modules=modules, transport="loopback") as run:
        wired, found = run.train()
    assert_same_bits(serial, wired)
    for kind in (EvalRecord, ProbeRecord):
        seen, wired = (
            [replace(e, **TIMES.get(kind, {})) for e in side if isinstance(e, kind)] for side in (records, found)
        )
        assert len(seen) >= 3
        assert seen == wired
    assert [e for e in records if getattr(e, "holds", True) is False] == []


@pytest.mark.parametrize("name", LIVE)
def test_a_run_in_two_parts_is_the_whole(name):
    r, modules, data, _ = case(name, rule="dfa", probe_every=2)
    whole, _, _ = run_serial(r, data, modules=modules)
    halves = [side.readers(r.dtype, torch.device("cpu")) for side in data]

    def trainer():
        return SerialTrainer(r, *(Split(inputs=x, targets=y) for x, y in zip(*halves, strict=True)), modules=modules)

    first, rest = trainer(), trainer()
    list(first.run(stop=5))
    rest.load_state_dict(first.state_dict())
    list(rest.run())
    assert_same_bits(whole, rest.state())


@pytest.mark.parametrize("name", LIVE)
def test_the_users_module_and_the_global_generators_stay_as_they_were(name):
    seed_all(5)
    expected = torch.rand(1), np.random.rand(), random.random()
    r, modules, data, model = case(name, probe_every=1)
    seed_all(5)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    run_serial(r, data, modules=modules)
    assert (torch.rand(1), np.random.rand(), random.random()) == expected
    assert_same_bits(before, model.state_dict())


def test_a_parameter_that_a_step_does_not_use_stays_where_it_is():
    """It has no gradient, as in torch: weight decay and momentum leave it alone, too."""
    r, modules, data, _ = case("Joining", micro_batches=1)
    weights, _, _ = run_serial(replace(r, max_steps=3), data, modules=modules)
    assert torch.equal(weights["2.later.weight"], modules[2][0].later.weight)
    assert not torch.equal(weights["2.first.weight"], modules[2][0].first.weight)
    weights, _, _ = run_serial(replace(r, max_steps=4), data, modules=modules)
    assert not torch.equal(weights["2.later.weight"], modules[2][0].later.weight)
