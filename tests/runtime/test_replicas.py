"""Replicas of layers: with one accumulator each they are the oracle's, and over a wire they equal it bit for bit."""

from dataclasses import replace

import pytest
import torch
from cases import label
from runs import SIZES, ThreadRun, assert_same_bits, recipe, run_serial, run_threads
from zoo import made

from distfa.core.base.optim import OptimizerConfig
from distfa.core.base.recipe import CutConfig
from distfa.core.replicas import Accumulators, add_in_order
from distfa.errors import DistfaError, LayerError
from distfa.runtime.coordinator import boundary_bytes
from distfa.transport.message import Direction, Kind

THREE = recipe(rule="dfa", replicas=3, micro_batches=7)
CLIPPED = OptimizerConfig(name="sgd", lr=0.05, momentum=0.9, clip_norm=0.1)


def by_kind(records):
    return sorted(records, key=lambda r: (type(r).__name__, r.step))


def assert_wired_equals_serial(r, data=None, modules=None, **options):
    serial, serial_records, _ = run_serial(r, data, modules=modules)
    wired, wired_records = run_threads(r, data, modules=modules, transport="loopback", **options)
    assert_same_bits(serial, wired)
    assert by_kind(serial_records) == by_kind(wired_records)


@pytest.mark.parametrize("replicas", [2, 3])
def test_bp_with_replicas_is_plain_torch_to_round_off(replicas):
    plain = OptimizerConfig(name="sgd", lr=0.05)
    r = recipe(rule="bp", dtype=torch.float64, micro_batches=7, optimizer=plain, max_steps=4)
    (one, *_), (many, *_) = run_serial(r), run_serial(replace(r, replicas=replicas))
    for name in one:
        torch.testing.assert_close(many[name], one[name], rtol=1e-10, atol=1e-12)
    assert any(not torch.equal(many[name], one[name]) for name in one)  # another order of the same sum


def test_gradients_add_up_in_each_replica_and_then_over_the_replicas():
    weight = torch.zeros(2)
    gradients, found = (
        Accumulators([weight, unused := torch.zeros(1)]),
        torch.tensor([[1e8, 3.0], [1.0, 5.0], [-1e8, 7.0]]),
    )
    for m, gradient in enumerate(found):
        weight.grad = gradient.clone() if gradients.begins(m % 2) else weight.grad + gradient
    gradients.take(add_in_order([gradients.part(0), gradients.part(1)]))
    assert weight.grad.tolist() == [1.0, 15.0]  # one after the other, the 1.0 would be lost
    assert unused.grad is None


@pytest.mark.parametrize(
    "changes",
    [
        {"replicas": 2, "micro_batches": 4, "rule": "dfa"},
        {"replicas": 3, "micro_batches": 7, "rule": "dkp", "schedule": "async"},
        {"replicas": 2, "micro_batches": 7, "rule": "kp", "schedule": "async", "optimizer": CLIPPED},
        {"replicas": 3, "micro_batches": 4, "rule": "bp", "mixed": True},
        {"replicas": 2, "micro_batches": 4, "rule": "fa", "batch_size": 37, "dtype": torch.float64},
    ],
    ids=label,
)
def test_workers_with_replicas_equal_serial(changes):
    """37 rows in a batch leave a last one of a single row: one replica has nothing to add."""
    assert_wired_equals_serial(recipe(**changes))


def test_replicas_of_workers_that_host_several_layers_equal_serial():
    assert_wired_equals_serial(THREE, workers=((1, 2), (3, 4)))


@pytest.mark.parametrize(("network", "rule"), [("lenet", "fa"), ("transformer", "bp")])
def test_networks_of_any_modules_equal_serial_and_draw_by_the_micro_batch_of_the_whole_step(network, rule):
    r, modules, data = made(network, rows=20, rule=rule, micro_batches=4, max_steps=3)
    assert_wired_equals_serial(replace(r, replicas=2), data, modules)


@pytest.mark.parametrize("replicas", [2, 3, 4])
def test_a_replica_sends_two_shares_of_its_gradient_to_each_other(replicas):
    r = replace(THREE, replicas=replicas, max_steps=3)
    with ThreadRun(r, transport="loopback") as run:
        run.train()
        traffic = run.coordinator.traffic()
    for layer in range(1, len(SIZES)):
        numbers = SIZES[layer] * (SIZES[layer - 1] + 1) + 2  # weight and bias, and whether there is a gradient for each
        sent = sum(
            counted.payload_bytes
            for (link, kind), counted in traffic.items()
            if (link.boundary, kind) == (layer, Kind.GRADIENT)
        )
        assert sent == 3 * 4 * 2 * (replicas - 1) * numbers
    rows = [row for row in boundary_bytes(traffic, r.network.boundaries) if row.get("beside")]
    assert [row["boundary"] for row in rows] == [1, 2, 3, 4]
    assert all(row["down_payload"] > 0 and row["up_payload"] == 0 for row in rows)


def test_an_altered_gradient_is_found_and_named():
    """With replicas on the wire, one number of one message is another one at step 1."""

    def alter(layer, transport):
        connect = transport.connect

        def altered(link, *args):
            sender = connect(link, *args)
            if link.direction is Direction.BESIDE and (link.sender, link.replica) == (2, 1):
                send, sent = sender.send, []

                def send_altered(data, *rest, **more):
                    sent.append(data)
                    data = data[:-1] + bytes([data[-1] ^ 1]) if len(sent) == 4 else data
                    send(data, *rest, **more)

                sender.send = send_altered
            return sender

        transport.connect = altered
        return transport

    with (
        ThreadRun(replace(THREE, replicas=2), transport="loopback", wrap_transport=alter) as run,
        pytest.raises(DistfaError, match=r"gradient of layer 2 from replica 1, step 1, .*altered in transit"),
    ):
        run.train()


def test_replicas_that_no_longer_hold_the_same_end_the_run():
    r = replace(THREE, cuts=CutConfig(every=2))
    with ThreadRun(r, transport="loopback") as run, pytest.raises(LayerError, match=r"layer 3, step 1: .*replica 2"):
        other = next(h for h in run.handles if h.layers == (3,) and h.hosted.layers[0].replica == 2)
        other.hosted.layers[0].layer.weight[0, 0] += 1e-6
        run.train()


def test_replicas_go_on_from_a_cut_as_if_nothing_had_been():
    r = replace(THREE, cuts=CutConfig(every=3))
    whole = run_serial(r)[0]
    with ThreadRun(r, transport="loopback", span=(0, 3)) as run:
        run.train()
        layers = {layer.layer.index: layer.state_dict() for h in run.handles for layer in h.hosted.layers}
    assert_same_bits(whole, run_threads(r, transport="loopback", span=(3, None), resume=layers)[0])
