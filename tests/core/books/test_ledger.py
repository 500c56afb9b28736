"""The conservation ledger: exact in float64, within derived rounding in float32, and a checksum of the run."""

import dataclasses
import math
from itertools import cycle, product

import numpy as np
import pytest
import torch
from cases import in_turn, label, pairs
from runs import raw, recipe, run_serial

from distfa.core.base import order
from distfa.core.base.activations import NAMES
from distfa.core.base.optim import OptimizerConfig
from distfa.core.books.ledger import LedgerRecord, describe_violation
from distfa.core.layer import Layer
from distfa.core.rules import RULES

LAWFUL = [name for name, rule in RULES.items() if rule.potential]
OPTIMIZERS = [
    OptimizerConfig(name="sgd", lr=0.05, schedule="cosine", warmup_steps=9, fold=True),
    OptimizerConfig(name="sgd", lr=0.05),
    OptimizerConfig(name="sgd", lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    OptimizerConfig(name="adam", lr=1e-3, weight_decay=1e-3),
    OptimizerConfig(name="adamw", lr=1e-3, weight_decay=1e-2),
]


def entries(records):
    return [record for record in records if isinstance(record, LedgerRecord)]


def books(rule, dtype=torch.float64, **settings):
    """(ledger entries, trainer) of a run with an entry at every step."""
    _, records, trainer = run_serial(recipe(rule=rule, dtype=dtype, ledger_every=1, **settings))
    return entries(records), trainer


def assert_every_cause_adds_up(found, rule, schedule, steps):
    """float64 entries of every step, and nothing left unexplained."""
    assert len(found) == 3 * steps
    assert (max(abs(entry.staleness) for entry in found) > 1e-8) == (schedule == "async")
    for entry in found:
        scale = max(1.0, abs(entry.incoming), abs(entry.potential))
        assert abs(entry.residual) <= 1e-12 * scale
        if rule == "dfa" and entry.boundary < 3:
            assert entry.transport == 0  # both halves are layer l's own: the shadow readout has its own test
        else:
            assert abs(entry.transport) <= 1e-12 * scale
        assert describe_violation(entry) is None
        known = entry.discretisation + entry.optimizer + entry.nonhomogeneity + entry.staleness
        assert math.isclose(known + entry.transport + entry.residual, entry.change, rel_tol=1e-9, abs_tol=1e-14)


@in_turn(how=pairs(["sync", "async"], NAMES, OPTIMIZERS), rule=LAWFUL)
def test_every_cause_adds_up_to_the_change_in_float64(how, rule):
    schedule, activation, optimizer = how
    settings = {"schedule": schedule, "activation": activation, "optimizer": optimizer}
    found, _ = books(rule, epochs=200, max_steps=30, micro_batches=3, **settings)
    assert_every_cause_adds_up(found, rule, schedule, 30)


@pytest.mark.parametrize(
    ("rule", "optimizer"),
    [
        pytest.param(rule, optimizer, marks=() if rule in ("kp", "dfa") else pytest.mark.slow)
        for rule, optimizer in zip(LAWFUL, cycle(OPTIMIZERS), strict=False)
    ],
    ids=label,
)
def test_nothing_accumulates_in_two_hundred_steps(rule, optimizer):
    found, _ = books(rule, optimizer=optimizer, epochs=200, max_steps=200, micro_batches=3)
    assert_every_cause_adds_up(found, rule, "sync", 200)


@in_turn(rule=LAWFUL, optimizer=OPTIMIZERS)
def test_float32_stays_within_the_derived_tolerance(rule, optimizer):
    found, _ = books(rule, torch.float32, optimizer=optimizer, epochs=60, max_steps=80)
    assert len(found) == 3 * 80
    assert [describe_violation(entry) for entry in found if not entry.holds] == []
    for entry in found:  # a tolerance that takes anything would prove nothing
        scale = max(1.0, abs(entry.incoming), abs(entry.potential))
        assert entry.tolerance < 1e-3 * scale
        assert entry.transport_tolerance < 1e-3 * scale


@pytest.mark.parametrize("rule", LAWFUL)
def test_float32_stays_within_the_derived_tolerance_in_wide_layers(rule):
    """Once the books took usf's magnitude from the shape of a block of rows: wrong in layers of several blocks."""
    wide = (64, 512, 384, 10)
    r = recipe(wide, rule=rule, ledger_every=1, batch_size=256, epochs=3, optimizer=OPTIMIZERS[2])
    found = entries(run_serial(r, raw(r, rows=512))[1])
    assert len(found) == 12
    assert [describe_violation(entry) for entry in found if not entry.holds] == []


@pytest.mark.parametrize("rule", LAWFUL)
def test_the_levels_are_the_two_sides_of_the_law(rule):
    """Entries' changes add up to the levels, and levels are what theory.md's table says of the weights."""
    found, trainer = books(rule, init="random", epochs=10)
    for boundary in (1, 2, 3):
        mine = [entry for entry in found if entry.boundary == boundary]
        drift = sum(entry.change for entry in mine[1:])
        q = [entry.incoming - entry.potential for entry in mine]
        assert q[-1] - q[0] == pytest.approx(drift, rel=1e-9, abs=1e-13)
        below, above = trainer.layers[boundary - 1], trainer.layers[boundary]
        incoming = (below.weight.square().sum() + below.bias.square().sum()) / 2
        assert mine[-1].incoming == pytest.approx(incoming.item(), rel=1e-12)
        w = above.weight
        potential = {
            "bp": lambda w=w: w.square().sum() / 2,
            "fa": lambda w=w, above=above, b=boundary: (above.rule.hop_feedback(b) * w).sum(),
            "usf": lambda w=w: (2 / sum(w.shape)) ** 0.5 * w.abs().sum(),
            "frsf": lambda w=w, above=above, b=boundary: (above.rule.hop_feedback(b).abs() * w.abs()).sum(),
            "kp": lambda below=below: below.ends.teacher.square().sum() / 2,
            "dkp": lambda below=below: below.ends.teacher.square().sum() / 2,
        }
        if rule in potential:
            assert mine[-1].potential == pytest.approx(potential[rule]().item(), rel=1e-12)


def test_the_shadow_readout_of_dfas_last_boundary_moves_as_the_output_weights_under_sgd():
    found, trainer = books("dfa", optimizer=OPTIMIZERS[0], epochs=10)
    output = trainer.layers[-1]
    moved = output.weight - Layer(trainer.recipe, output.index).weight
    expected = (output.rule.direct_feedback(3) * moved).sum().item()
    assert expected != 0
    assert [e for e in found if e.boundary == 3][-1].potential == pytest.approx(expected, rel=1e-10)


def test_the_shadow_readouts_of_dfas_other_boundaries_move_by_the_errors_and_the_signals_below():
    """Layer l keeps both halves there, so nothing else would notice a wrong one: V_l -= lr e^T h_l, by hand."""
    found, trainer = books("dfa", optimizer=OptimizerConfig(name="sgd", lr=0.05), epochs=2)
    r, data = trainer.recipe, raw(trainer.recipe)
    x, y = (side.readers(torch.float64, torch.device("cpu"))[0] for side in data)
    layers = [Layer(r, l) for l in (1, 2, 3, 4)]
    feedback = {l: layers[l - 1].rule.teacher(l) for l in (1, 2, 3)}
    shadow = {l: torch.zeros_like(feedback[l]) for l in (1, 2)}
    for batch in order.batches(r, len(x)):
        rows = np.concatenate(batch.parts)
        h = [x.read(rows)]
        for layer in layers:
            h.append(layer.infer(h[-1]))
        e = (torch.softmax(h[4], 1) - torch.nn.functional.one_hot(y.read(rows), 5)) / len(rows)
        deltas = {4: e} | {l: (e @ feedback[l]) * (h[l] > 0) for l in (1, 2, 3)}
        for l, delta in deltas.items():
            weight, bias = layers[l - 1].parameters
            weight -= 0.05 * delta.t() @ h[l - 1]
            bias -= 0.05 * delta.sum(0)
        for l, readout in shadow.items():
            readout -= 0.05 * e.t() @ h[l]
            (booked,) = (entry for entry in found if (entry.step, entry.boundary) == (batch.step, l))
            assert booked.potential == pytest.approx((feedback[l] * readout).sum().item(), rel=1e-9, abs=1e-13)


@pytest.mark.parametrize("rule", ["fa", "dfa", "bp", "dkp"])
def test_drift_at_equal_training_time_shrinks_with_the_learning_rate(rule):
    """Gradient flow conserves Q: the discretisation of a fixed time T = lr x steps is first order in lr."""
    drifts = []
    for lr in (0.02, 0.01, 0.005):
        steps = round(1 / lr)
        optimizer = OptimizerConfig(name="sgd", lr=lr)
        settings = {"optimizer": optimizer, "batch_size": 75}  # the whole set: no sampling noise
        found, _ = books(rule, decay=0.0, epochs=steps, **settings)
        drifts.append(sum(abs(sum(e.change for e in found if e.boundary == b)) for b in (1, 2, 3)))
    assert drifts[0] / drifts[1] == pytest.approx(2, rel=0.1)
    assert drifts[1] / drifts[2] == pytest.approx(2, rel=0.1)


@in_turn(rule=LAWFUL, how=product(["relu", "tanh"], ["sync", "async"]))
def test_the_law_holds_neuron_by_neuron(rule, how):
    activation, schedule = how
    found, trainer = books(
        rule,
        activation=activation,
        schedule=schedule,
        micro_batches=3,
        epochs=3,
        ledger_neurons=True,
        optimizer=OPTIMIZERS[2],
    )
    assert len(found) == 3 * 15
    for entry in found:
        shares = dataclasses.asdict(entry.neurons)
        assert {len(values) for values in shares.values()} == {trainer.recipe.network.sizes[entry.boundary]}
        for cause, values in shares.items():
            assert math.fsum(values) == pytest.approx(getattr(entry, cause), rel=1e-9, abs=1e-14)
        assert max(map(abs, shares["residual"])) < 1e-14
        assert max(map(abs, shares["transport"])) < 1e-14


def test_a_neurons_share_is_the_change_of_its_own_q():
    found, trainer = books("fa", epochs=2, ledger_neurons=True)
    start = [Layer(trainer.recipe, l) for l in (2, 3)]

    def q(below, above):
        potential = (above.rule.hop_feedback(2) * above.weight).sum(0)
        return (below.weight.square().sum(1) + below.bias.square()) / 2 - potential

    change = q(*trainer.layers[1:3]) - q(*start)
    shares = torch.tensor([entry.neurons.change for entry in found if entry.boundary == 2], dtype=torch.float64)
    torch.testing.assert_close(shares.sum(0), change, rtol=1e-9, atol=1e-13)


def test_every_step_has_a_page_of_its_own_whenever_it_is_noted():
    """The ledger once had to be told that a step begins, and knew one step at a time."""
    r = recipe(rule="fa", dtype=torch.float64, ledger_every=1)
    draw = torch.Generator().manual_seed(1)
    h = torch.randn(8, r.network[2].inputs, dtype=torch.float64, generator=draw)
    message = torch.randn(8, r.network[2].outputs, dtype=torch.float64, generator=draw)

    def halves(*others):
        layer = Layer(r, 2)
        for part in [*others, (0, 0)]:
            layer.forward(h, part)
            delta = layer.hidden_delta(message, part)
        layer.accumulate(delta, (0, 0))
        return layer.update(0, 0.1)

    assert halves((1, 0), (2, 0)) == halves() != []


def test_rules_without_a_potential_keep_no_ledger():
    lawless = set(RULES) - set(LAWFUL)
    assert "drtp" in lawless
    for rule in sorted(lawless):
        assert books(rule, max_steps=3)[0] == []


def test_the_cadence_is_kept_and_entries_do_not_depend_on_it():
    each, _ = books("dfa", epochs=4)
    _, records, _ = run_serial(recipe(rule="dfa", dtype=torch.float64, ledger_every=7, epochs=4))
    sparse = entries(records)
    assert {entry.step for entry in sparse} == {0, 7, 14}
    for entry in sparse:
        twin = next(e for e in each if (e.step, e.boundary) == (entry.step, entry.boundary))
        assert entry.potential == pytest.approx(twin.potential, rel=1e-12, abs=1e-14)
        assert entry.change == pytest.approx(twin.change, rel=1e-9)


def test_books_do_not_change_the_weights():
    kept, plain = (run_serial(recipe(rule="kp", ledger_every=every))[0] for every in (1, 0))
    assert all(torch.equal(kept[key], plain[key]) for key in plain)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=label)
def test_an_update_made_twice_is_found_at_its_layer_and_step_and_nowhere_else(monkeypatch, optimizer, dtype):
    plain, count = Layer._descend, [0]

    def descend(self, step, lr):
        plain(self, step, lr)
        if self.index == 2:
            count[0] += 1
            if count[0] == 4:
                self.optimizer.step(lr, step)

    monkeypatch.setattr(Layer, "_descend", descend)
    found, _ = books("fa", dtype, optimizer=optimizer, max_steps=8)
    broken = {(entry.step, entry.boundary) for entry in found if not entry.holds}
    assert broken == {(3, 1), (3, 2)}  # layer 2 keeps the upper half of boundary 1 and the lower half of boundary 2
    words = [describe_violation(entry) for entry in found if not entry.holds]
    assert all("within layer 2" in word and "applied twice" in word for word in words)


def test_a_broken_entry_says_boundary_step_size_tolerance_and_causes():
    entry = dataclasses.replace(books("fa", max_steps=1)[0][0], transport=1e-3)
    assert describe_violation(entry).startswith(
        "boundary 1 (layers 1 and 2), step 0: the conservation law is broken by 0.001"
    )
    assert "altered, lost, repeated or rounded" in describe_violation(entry)


def test_the_factor_of_decoupled_decay_is_rounded_once_for_all_numbers():
    """Once a wide B under dkp, which decays from the first step on, raised false alarms in float32."""
    adam = OptimizerConfig(name="adam", lr=3e-4)
    settings = {"rule": "dkp", "init": "random", "ledger_every": 12, "optimizer": adam}
    r = recipe((64, 1024, 10), batch_size=256, epochs=31, **settings)
    found = entries(run_serial(r, raw(r, rows=512))[1])
    assert len(found) == 6
    assert [describe_violation(entry) for entry in found if not entry.holds] == []
