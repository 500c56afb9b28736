"""feedback.active_only: errors that a ReLU would stop are not sent. With lossless activations nothing else changes."""

import pytest
import torch
from runs import ThreadRun, assert_same_bits, recipe, run_serial
from zoo import made

from distfa.core.books.ledger import LedgerRecord, describe_violation
from distfa.errors import SpecError
from distfa.runtime.coordinator import boundary_bytes
from distfa.settings import parse_spec

F64 = torch.float64


def down(run, r):
    return sum(row["down_payload"] for row in boundary_bytes(run.coordinator.traffic(), r.network.boundaries))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("rule", ["bp", "usf", "frsf", "fa"])
def test_weights_are_those_of_the_whole_errors_and_fewer_bytes_go_down(rule, dtype):
    both = {}
    for active_only in (False, True):
        r = recipe((12, 17, 19, 23, 5), rule=rule, dtype=dtype, ledger_every=2, active_only=active_only)
        with ThreadRun(r, activations="packed", errors="packed", transport="loopback") as run:
            weights, records = run.train()
            both[active_only] = weights, down(run, r)
        assert_same_bits(weights, run_serial(r)[0])
        entries = [record for record in records if isinstance(record, LedgerRecord)]
        assert entries
        assert all(describe_violation(entry) is None for entry in entries)
    assert_same_bits(both[True][0], both[False][0])
    assert both[True][1] < 0.75 * both[False][1]


@pytest.mark.parametrize("network", ["lenet", "residual_mlp"])
def test_layers_of_any_modules_too(network):
    weights = {}
    for active_only in (False, True):
        r, modules, data = made(network, rule="bp", dtype=F64, active_only=active_only)
        with ThreadRun(r, data, modules=modules, transport="loopback", errors="packed") as run:
            weights[active_only], _ = run.train()
        assert_same_bits(weights[active_only], run_serial(r, data, modules=modules)[0])
    assert_same_bits(weights[True], weights[False])


def test_lossy_activations_are_the_same_in_every_engine():
    r = recipe(rule="bp", active_only=True, micro_batches=2)
    with ThreadRun(r, activations="int4", errors="int8+zstd") as run:
        weights, _ = run.train()
    assert_same_bits(weights, run_serial(r, activations="int4", errors="int8+zstd")[0])


def test_a_codec_that_sends_zeros_at_full_length_is_refused():
    with pytest.raises(SpecError, match="feedback.active_only replaces errors with zeros, but codec.errors is 'int8'"):
        parse_spec({"rule": "bp", "feedback": {"active_only": True}, "codec": {"errors": "int8"}})
