"""Feedback that is renewed: what it becomes, who sends what, and that every engine does it in the same step."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from cases import pairwise
from runs import SIZES, ThreadRun, assert_same_bits, raw, recipe, run_serial
from test_modules_equal_serial import in_order
from test_resume import serial, sorted_records
from torch import nn
from torch.func import jacrev
from zoo import NETWORKS, made, prepared

from distfa.core.base import order
from distfa.core.base.recipe import ProbeConfig, RenewConfig
from distfa.core.books.digest import DigestRecord
from distfa.core.books.ledger import LedgerRecord
from distfa.core.books.probe import LayerProbe, ProbeRecord
from distfa.core.books.records import RenewalRecord
from distfa.core.layer import Layer
from distfa.core.rules import RULES
from distfa.errors import SpecError
from distfa.intake.checks import check_rule_fits
from distfa.runtime.coordinator import boundary_bytes
from distfa.settings import parse_spec
from distfa.transport.base import WireConfig
from distfa.transport.message import Kind

RENEWABLE = [name for name, rule in RULES.items() if rule.takes_renewal]
EVERY, BELOW = RenewConfig(every=3, rows=5), RenewConfig(below=0.99, rows=5)
BOOKS = {"ledger_every": 1, "probe_every": 2, "ledger_exact": True}
F64 = torch.float64


def of_kind(records, kind):
    return [record for record in records if isinstance(record, kind)]


def case(network, rule, renew, schedule="sync", **settings):
    """(recipe, modules, samples)."""
    settings = {"rule": rule, "renew": renew, "schedule": schedule, "micro_batches": 4, **BOOKS, **settings}
    if network == "mlp":
        r = recipe(epochs=2, **settings)
        return r, None, raw(r)
    return made(network, **settings)


@pairwise(network=["mlp", *NETWORKS], rule=RENEWABLE, renew=[EVERY, BELOW], schedule=["sync", "async"])
def test_layers_on_a_wire_renew_in_the_steps_in_which_the_oracle_does(network, rule, renew, schedule):
    r, modules, data = case(network, rule, renew, schedule)
    weights, expected, _ = run_serial(r, data, modules=modules)
    with ThreadRun(r, data, modules=modules, transport="loopback", wire=WireConfig(window=1)) as run:
        wired, records = run.train()
    assert_same_bits(weights, wired)
    assert in_order(records) == in_order(expected)
    renewals = of_kind(expected, RenewalRecord)
    assert renewals
    assert all(record.holds for record in of_kind(expected, DigestRecord))
    assert all(record.holds for record in of_kind(expected, LedgerRecord))
    if renew is EVERY:
        start = [0] if network != "mlp" else []
        last = max(entry.step for entry in of_kind(expected, LedgerRecord))
        assert [(record.step, record.cosine) for record in renewals] == [
            (step, None) for step in [*start, *range(3, last + 1, 3)]
        ]
    else:  # the step after a probe that saw less, by the very figure of the books
        lag = 1 if schedule == "sync" else 2
        seen = {probe.step + lag: probe.cosine for probe in of_kind(expected, ProbeRecord)}
        called = {record.step: record.cosine for record in renewals if record.cosine is not None}
        assert called == {
            step: cosine for step, cosine in seen.items() if cosine < 0.99 and step <= last_step(expected)
        }


def last_step(records):
    return max(entry.step for entry in of_kind(records, LedgerRecord))


@pytest.mark.parametrize("rule", RENEWABLE)
def test_many_outputs_start_by_the_same_directions_on_a_wire(rule):
    model = nn.Sequential(
        nn.Linear(6, 9), nn.LayerNorm(9), nn.Tanh(), nn.Linear(9, 9), nn.LayerNorm(9), nn.Linear(9, 1030)
    )
    r, modules, data = prepared(model, (6,), 1030, rule=rule, probe_every=1, max_steps=2)
    weights, expected, _ = run_serial(r, data, modules=modules)
    with ThreadRun(r, data, modules=modules, transport="loopback") as run:
        wired, records = run.train()
    assert_same_bits(weights, wired)
    assert in_order(records) == in_order(expected)
    assert of_kind(expected, ProbeRecord)[0].layers[1].cosine > 0.9


@pytest.mark.parametrize("renew", [EVERY, BELOW], ids=["every", "below"])
@pytest.mark.parametrize("rule", RENEWABLE)
def test_over_grpc_in_mixed_precision(rule, renew):
    r, _, data = case("mlp", rule, renew, mixed=True)
    weights, expected, _ = run_serial(r, data)
    with ThreadRun(r, data) as run:
        wired, records = run.train()
    assert_same_bits(weights, wired)
    assert in_order(records) == in_order(expected)
    assert of_kind(records, RenewalRecord)


@pairwise(network=["mlp", "resnet", "transformer"], rule=RENEWABLE, renew=[EVERY, BELOW], schedule=["sync", "async"])
def test_a_run_in_two_parts_renews_as_the_whole(network, rule, renew, schedule):
    r, modules, data = case(network, rule, renew, schedule)
    at = 5 if network == "mlp" else 3  # the end of an epoch
    before = 1 if schedule == "sync" else 2
    r = replace(r, probe=ProbeConfig(every=at - before or 1))  # a renewal is due right after the cut
    whole, records, _ = run_serial(r, data, modules=modules)
    first = serial(r, modules, data)
    begun = list(first.run(stop=at))
    rest = serial(r, modules, data)
    rest.load_state_dict(first.state_dict())
    begun += rest.run()
    assert_same_bits(whole, rest.state())
    assert sorted_records(begun) == sorted_records(records)
    after = [record.step for record in of_kind(records, RenewalRecord) if record.step >= at]
    assert after
    assert renew is EVERY or after[0] == at


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("rule", RENEWABLE)
def test_what_is_kept_is_the_product_of_mean_jacobians_of_the_layers_above(rule, activation):
    """By torch's own Jacobians, at the weights and the first rows of the step of the renewal."""
    settings = {"rule": rule, "activation": activation, "dtype": F64, "gain": 1.5, "decay": 0.0}
    r = recipe(renew=RenewConfig(every=2, rows=6), **settings)
    trainer = run_serial(replace(r, max_steps=2))[2]  # all of the steps before it
    layers, (inputs, _) = trainer.layers, raw(r)
    later = serial(replace(r, max_steps=3), None, raw(r))
    later.load_state_dict(trainer.state_dict())
    kept = {}
    renew = Layer.renew

    def watched(self, feedback, part):
        found = renew(self, feedback, part)
        if not self.is_output:
            kept[self.index] = (part[0], self.ends.feedback())
        return found

    x = inputs.readers(F64, torch.device("cpu"))[0].read(batch_rows(r, 2)[:6])
    expected, means = torch.eye(SIZES[-1], dtype=F64), {}
    for layer in layers:
        weight, bias, phi = layer.weight.clone(), layer.bias.clone(), layer.spec.activation

        def one(h, weight=weight, bias=bias, phi=phi):
            return phi.module()(weight @ h + bias)

        means[layer.index] = torch.stack([jacrev(one)(row) for row in x]).mean(0)
        x = torch.stack([one(row) for row in x])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Layer, "renew", watched)
        list(later.run())
    for index in reversed(range(1, len(layers))):
        expected = expected @ means[index + 1]
        step, found = kept[index]
        assert step == 2
        assert torch.allclose(found, 1.5 * expected, rtol=1e-11, atol=1e-14)


def batch_rows(r, step):
    return next(batch.parts[0] for batch in order.batches(r, 75) if batch.step == step)


@pytest.mark.parametrize("network", ["mlp", "resnet"])
@pytest.mark.parametrize("rule", RENEWABLE)
def test_the_books_name_renewal_as_a_cause_and_close(rule, network):
    r, modules, data = case(network, rule, EVERY, dtype=F64)
    found = of_kind(run_serial(r, data, modules=modules)[1], LedgerRecord)
    renewed = {step for step in range(99) if step % 3 == 0}
    for boundary in r.network.boundaries:
        mine = [entry for entry in found if entry.boundary == boundary]
        levels = [entry.incoming - (entry.potential or 0.0) for entry in mine]
        for (before, after), entry in zip(itertools.pairwise(levels), mine[1:], strict=True):
            scale = max(1.0, abs(after))
            assert abs(after - before - entry.change) < 1e-12 * scale  # the levels themselves moved by so much
            assert (entry.renewal != 0) == (entry.step in renewed)
            assert abs(entry.residual) < 1e-12 * scale
            assert abs(entry.transport) < 1e-12 * scale
            known = entry.discretisation + entry.optimizer + entry.nonhomogeneity + entry.staleness + entry.renewal
            assert math.isclose(known + entry.transport + entry.residual, entry.change, rel_tol=1e-9, abs_tol=1e-13)


def test_neurons_shares_of_a_renewal_add_up():
    r = recipe(rule="dfa", dtype=F64, renew=EVERY, ledger_every=1, ledger_neurons=True)
    entries = of_kind(run_serial(r)[1], LedgerRecord)
    assert any(entry.renewal for entry in entries)
    for entry in entries:
        assert math.fsum(entry.neurons.renewal) == pytest.approx(entry.renewal, rel=1e-9, abs=1e-14)


def test_its_rows_and_words_are_training_traffic_and_nothing_else_is_sent():
    plain, every, below = (
        recipe(rule="dkp", probe_every=2, renew=renew) for renew in (RenewConfig(), EVERY, RenewConfig(below=1.0))
    )
    tables, kinds = [], []
    for r in (plain, every, below):
        with ThreadRun(r, transport="loopback") as run:
            run.train()
            traffic = run.coordinator.traffic()
        tables.append(boundary_bytes(traffic, r.network.boundaries))
        kinds.append({kind: sum(t.messages for (_, k), t in traffic.items() if k is kind) for kind in Kind})
    outputs = SIZES[-1]
    for boundary, (without, clock, seen) in enumerate(zip(*tables, strict=True), start=1):
        assert clock["up_payload"] == without["up_payload"]
        assert clock["down_payload"] - without["down_payload"] == 3 * outputs * SIZES[boundary] * 4  # steps 3, 6, 9
        renewed = kinds[2][Kind.RENEWAL] // 3
        assert renewed > 1
        assert seen["up_payload"] - without["up_payload"] == 5 * 24 * 4  # a tally after each of five probes
        assert seen["down_payload"] - without["down_payload"] == renewed * outputs * SIZES[boundary] * 4 + 5 * 4
    assert not any(kinds[0][kind] for kind in (Kind.RENEWAL, Kind.TALLY, Kind.VERDICT))
    assert not any(kinds[1][kind] for kind in (Kind.TALLY, Kind.VERDICT))


def test_alignment_that_fell_comes_back():
    """Aged feedback against feedback renewed at every step, seen by the same probes."""
    aged, fresh = (
        of_kind(run_serial(recipe(rule="dfa", epochs=40, probe_every=10, renew=renew))[1], ProbeRecord)[-1].cosine
        for renew in (RenewConfig(), RenewConfig(every=1, rows=16))
    )
    assert fresh > aged + 0.02


def test_a_tally_is_whole_in_every_dtype_of_signals():
    probe = LayerProbe(step=3, layer=2, a=-0.1, gradient_square=1 / 3, update_square=1e-300)
    for dtype in (torch.float32, F64, torch.bfloat16):
        assert LayerProbe.from_message(probe.to_message(dtype), step=3, layer=2) == probe


def test_a_wide_output_is_refused_with_its_size():
    r = recipe((12, 2048, 5000), rule="dfa")
    spec = parse_spec({"feedback": {"renew": {"every": 50}}})
    with pytest.raises(
        SpecError, match=r"each of the 5,000 outputs down the layers, up to 41.0 MB .* at most 4,096 outp"
    ):
        check_rule_fits(spec, r.network)
    check_rule_fits(parse_spec({}), r.network)
