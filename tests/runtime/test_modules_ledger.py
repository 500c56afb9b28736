"""The books of networks of any modules: exact in float64, the law where it holds, planted faults at their place."""

from itertools import product

import numpy as np
import pytest
import torch
from cases import in_turn
from runs import ThreadRun, assert_same_bits, run_serial
from test_failures import Meddler
from test_ledger_wire import altering
from torch import nn
from zoo import NETWORKS, made, prepared

from distfa.core.base.optim import OptimizerConfig
from distfa.core.books.digest import DigestRecord
from distfa.core.books.ledger import LedgerRecord, describe_violation
from distfa.core.layer import Layer
from distfa.core.rules import RULES
from distfa.core.rules.fa import FeedbackAlignment
from distfa.transport.message import Kind

F64 = torch.float64
LAWFUL = [name for name, rule in RULES.items() if rule.potential]
SETTINGS = {"dtype": F64, "ledger_every": 1, "rows": 24, "max_steps": 6}


def entries(records):
    return [record for record in records if isinstance(record, LedgerRecord)]


@in_turn(how=product(NETWORKS, [("sync", 2), ("async", 8)]), rule=LAWFUL)
def test_every_cause_adds_up_to_round_off(how, rule):
    network, (schedule, micro_batches) = how
    r, modules, data = made(network, rule=rule, schedule=schedule, micro_batches=micro_batches, **SETTINGS)
    found = entries(run_serial(r, data, modules=modules)[1])
    assert len(found) == 6 * (len(r.network) - 1)
    for entry in found:
        scale = max(1.0, abs(entry.incoming), abs(entry.potential or 0.0))
        assert abs(entry.residual) <= 1e-12 * scale
        assert abs(entry.transport) <= 1e-12 * scale
        assert describe_violation(entry) is None


def convolutions():
    parts = [nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    more = [nn.Conv2d(4, 5, 3, bias=False), nn.LeakyReLU(0.1), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(5, 3)]
    return nn.Sequential(*parts, *more).to(F64)


@pytest.mark.parametrize("rule", ["bp", "fa", "kp", "dfa", "dkp"])
def test_convolutions_obey_the_law_so_that_drift_falls_with_the_rate(rule):
    drifts = []
    for lr in (0.02, 0.01):
        torch.manual_seed(2)
        settings = {"rule": rule, "dtype": F64, "ledger_every": 1, "batch_size": 22, "epochs": round(1 / lr)}
        sgd = OptimizerConfig(name="sgd", lr=lr)
        r, modules, data = prepared(convolutions(), (2, 8, 8), 3, optimizer=sgd, decay=0.0, **settings)
        assert [layer.lawful for layer in r.network.layers] == [True, True, True]
        assert [layer.neurons for layer in r.network.layers] == [4, 5, 3]
        found = entries(run_serial(r, data, modules=modules)[1])
        assert all(entry.nonhomogeneity == 0 or abs(entry.nonhomogeneity) < 1e-14 for entry in found)
        drifts.append(sum(abs(sum(e.change - e.renewal for e in found if e.boundary == b)) for b in (1, 2)))
    assert drifts[0] / drifts[1] == pytest.approx(2, rel=0.15)


def wired(network, meddle, layer, rule, **settings):
    r, modules, data = made(network, rule=rule, **{**SETTINGS, **settings})

    def wrap(index, transport):
        return Meddler(transport, meddle) if index == layer else transport

    with ThreadRun(r, data, modules=modules, transport="loopback", wrap_transport=wrap) as run:
        weights, records = run.train()
    return records, weights, run_serial(r, data, modules=modules)[0]


@in_turn(how=product(NETWORKS, [(Kind.ACTIVATION, 2), (Kind.ERROR, 1)]), rule=["bp", "fa", "usf"])
def test_one_number_altered_on_the_wire_is_found_at_its_boundary_and_step(how, rule):
    network, (kind, boundary) = how
    records, weights, unaltered = wired(network, altering(kind, 3, 1 + 1e-6, np.float64), 2, rule)
    broken = {(e.step, e.boundary) for e in entries(records) if not e.holds}
    if broken:
        assert broken == {(3, boundary)}
    else:  # an error to a ReLU that is off changes nothing, and so is rightly not found
        assert kind is Kind.ERROR
        assert_same_bits(weights, unaltered)


@pytest.mark.parametrize("network", NETWORKS)
def test_under_dfa_digests_name_the_boundary(network):
    found, _, _ = wired(network, altering(Kind.ACTIVATION, 3, 1 + 1e-6, np.float64), 2, "dfa", ledger_exact=True)
    broken = [r for r in found if isinstance(r, DigestRecord) and not r.holds]
    assert {(r.step, r.boundary, r.direction) for r in broken} == {(3, 2, "up")}


@pytest.mark.parametrize("network", NETWORKS)
def test_an_update_made_twice_is_found_at_its_layer_and_step(monkeypatch, network):
    plain, count = Layer._descend, [0]

    def descend(self, step, lr):
        plain(self, step, lr)
        if self.index == 2:
            count[0] += 1
            if count[0] == 4:
                self.optimizer.step(lr, step)
                self.block.follow()

    monkeypatch.setattr(Layer, "_descend", descend)
    r, modules, data = made(network, rule="fa", **SETTINGS)
    broken = [e for e in entries(run_serial(r, data, modules=modules)[1]) if not e.holds]
    assert (3, 2) in {(e.step, e.boundary) for e in broken}
    assert {(e.step, e.boundary) for e in broken} <= {(3, 1), (3, 2)}  # 1 where layer 2 holds its potential
    assert all("within layer 2" in describe_violation(e) for e in broken)


def emitting_another(monkeypatch, boundary):
    """From step 3 on the sender of a boundary applies 1.01 B."""
    plain, steps = FeedbackAlignment.emit, [0]
    begin = Layer.begin_step

    def begin_step(self, step, **options):
        steps[0], self.rule.sender = step, self.index
        begin(self, step, **options)

    def emit(self, delta, state, weights, back):
        if self.sender == boundary + 1 and steps[0] >= 3:
            state = {name: 1.01 * b for name, b in state.items()}
        return plain(self, delta, state, weights, back)

    monkeypatch.setattr(Layer, "begin_step", begin_step)
    monkeypatch.setattr(FeedbackAlignment, "emit", emit)


def test_another_feedback_than_the_books_hold_is_found_below_a_layer_of_one_convolution_or_linear(monkeypatch):
    """Layer 5, a Linear behind nothing: the books have its B, and <B, G_5> is not what layer 4 got."""
    r, modules, data = made("resnet", rule="fa", **SETTINGS)
    last = len(r.network) - 1
    assert r.network[last + 1].linear_in
    emitting_another(monkeypatch, last)
    broken = {(e.step, e.boundary) for e in entries(run_serial(r, data, modules=modules)[1]) if not e.holds}
    assert broken == {(step, last) for step in (3, 4, 5)}


def test_below_a_block_only_the_pairing_is_kept_so_that_another_feedback_is_not_found(monkeypatch):
    """A block of several convolutions has no potential in one weight: both ends report the message that was sent,
    whichever B made it. What it does to the weights is in the alignment that probes show, not in the books.
    """
    r, modules, data = made("resnet", rule="fa", **SETTINGS)
    assert not r.network[3].linear_in
    unaltered = run_serial(r, data, modules=modules)[0]
    emitting_another(monkeypatch, 2)
    weights, records, _ = run_serial(r, data, modules=modules)
    assert any(not torch.equal(weights[key], value) for key, value in unaltered.items())
    assert all(entry.holds for entry in entries(records))
