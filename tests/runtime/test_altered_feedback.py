"""A feedback matrix that is fixed and changes in a layer's memory is found at the next probe, in every engine."""

import dataclasses

import pytest
import torch
from cases import in_turn
from runs import recipe, run_serial, run_threads
from zoo import made

from distfa.core.books.probe import ProbeRecord
from distfa.core.ends import Ends
from distfa.core.rules import RULES
from distfa.core.serial import SerialTrainer
from distfa.run.collapse import Watcher


def altered(records):
    """(step, layer, key) of every alteration in the probes."""
    probes = [record for record in records if isinstance(record, ProbeRecord)]
    return [(probe.step, layer.layer, key) for probe in probes for layer in probe.layers for key in layer.altered]


def meddling(monkeypatch, step, layer):
    """From now on one bit of one number of the layer's first matrix changes as this step begins."""
    refresh = Ends.refresh

    def refreshed(self, at):
        refresh(self, at)
        if (at, self._index) == (step, layer):
            bits = next(iter(self.tensors())).view(torch.int32)
            bits.view(-1)[7] ^= 1

    monkeypatch.setattr(Ends, "refresh", refreshed)


@pytest.mark.parametrize(
    ("rule", "layer", "key"), [("dfa", 1, "teacher"), ("drtp", 2, "teacher"), ("fa", 3, "origin.2.4.weight")]
)
@pytest.mark.parametrize("engine", [run_serial, run_threads])
def test_one_bit_of_a_fixed_matrix_is_found_with_layer_and_step(monkeypatch, engine, rule, layer, key):
    meddling(monkeypatch, 5, layer)
    records = engine(recipe(rule=rule, probe_every=3))[1]
    assert altered(records) == [(6, layer, key), (9, layer, key)]
    watcher = Watcher(steps=10, lr=0.1, constant=1.6, chance=None)
    (found,) = [f for record in records for f in watcher.add(record) if f.finding == "altered"]
    assert str(found).startswith(f"layer {layer}, step 6: its feedback ({key}) was altered in memory")


@in_turn(rule=RULES, init=["aligned", "random"])
def test_what_a_run_does_with_its_feedback_is_no_alteration(rule, init):
    renew = {"renew": dataclasses.replace(recipe().feedback.renew, every=2)} if RULES[rule].takes_renewal else {}
    r, modules, data = made("residual_mlp", rule=rule, init=init, probe_every=1, **renew)
    _, records, _ = run_serial(r, data, modules=modules)
    assert altered(records) == []


@pytest.mark.parametrize("rule", ["dfa", "fa"])
def test_a_matrix_that_was_altered_before_a_checkpoint_is_found_after_it(rule):
    r, modules, data = made("residual_mlp", rule=rule, init="aligned", probe_every=1)
    first, second = (run_serial(r, data, modules=modules)[2] for _ in range(2))
    assert isinstance(first, SerialTrainer)
    layer = 2 if rule == "dfa" else 3
    next(iter(first.layers[layer - 1].ends.tensors())).view(-1)[3] += 1
    second.load_state_dict(first.state_dict())
    assert second.layers[layer - 1].ends.altered()
