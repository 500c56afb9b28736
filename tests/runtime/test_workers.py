"""Several layers in one worker: the same bits, fewer messages, and no more places to stop at."""

from itertools import pairwise

import pytest
from cases import in_turn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs import ThreadRun, assert_same_bits, by_kind, raw, recipe, run_serial
from test_equals_serial import MANY

from distfa.core.base.recipe import FeedbackConfig, RenewConfig
from distfa.core.rules import RULES
from distfa.runtime.coordinator import boundary_bytes
from distfa.transport.base import WireConfig
from distfa.transport.message import Direction, Kind

LAYERS = len(MANY) - 1


def cut(*ends, layers=LAYERS):
    """Workers whose last layers are ``ends`` and the last one."""
    return tuple(tuple(range(a + 1, b + 1)) for a, b in pairwise((0, *ends, layers)))


ONE, TWO, UNEVEN, ONE_EACH = cut(), cut(8), cut(1, 3, 12), cut(*range(1, LAYERS))


def assert_workers_change_no_bit(r, workers, *, window=8, data=None, modules=None, **codecs):
    serial, serial_records, _ = run_serial(r, data, modules=modules, **codecs)
    wire = WireConfig(window=window, deadline_seconds=30)
    with ThreadRun(r, data, workers=workers, wire=wire, modules=modules, **codecs) as run:
        weights, records = run.train()
        traffic = run.coordinator.traffic()
    assert_same_bits(serial, weights)
    assert by_kind(serial_records) == by_kind(records)
    return traffic


@in_turn(
    rule=RULES,
    workers=[ONE, TWO, UNEVEN, ONE_EACH],
    how=[("sync", 1), ("sync", 5), ("async", 8)],
    codecs=[("lossless", "lossless"), ("int8", "bf16"), ("packed", "fp32")],
)
def test_whatever_the_workers_the_bits_are_those_of_one_process(rule, workers, how, codecs):
    schedule, micro_batches = how
    r = recipe(
        MANY,
        rule=rule,
        schedule=schedule,
        micro_batches=micro_batches,
        epochs=1,
        ledger_every=3,
        ledger_exact=True,
        probe_every=4,
        eval_every=1,
    )
    assert_workers_change_no_bit(r, workers, activations=codecs[0], errors=codecs[1])


@in_turn(schedule=["sync", "async"], workers=[ONE, TWO, UNEVEN])
def test_renewals_that_probes_call_for(schedule, workers):
    feedback = FeedbackConfig(renew=RenewConfig(below=0.99))
    r = recipe(MANY, rule="dkp", schedule=schedule, micro_batches=6, epochs=1, probe_every=2, feedback=feedback)
    traffic = assert_workers_change_no_bit(r, workers)
    renewed = sum(
        counted.payload_bytes + counted.inside_bytes for (_, kind), counted in traffic.items() if kind is Kind.RENEWAL
    )
    assert renewed > 0


@pytest.mark.parametrize(
    ("rule", "schedule", "micro_batches", "steps", "width"),
    [
        ("dfa", "sync", 24, 1, 4),
        pytest.param("dfa", "sync", 64, 1, 4, marks=pytest.mark.slow),
        pytest.param("dfa", "sync", 64, 3, 17_000, marks=pytest.mark.slow),  # with a renewal
        pytest.param("fa", "sync", 64, 3, 17_000, marks=pytest.mark.slow),
        pytest.param("dfa", "async", 128, 3, 17_000, marks=pytest.mark.slow),
        pytest.param("fa", "async", 128, 3, 17_000, marks=pytest.mark.slow),
    ],
)
def test_a_hundred_layers_on_two_workers_with_a_window_of_one(rule, schedule, micro_batches, steps, width):
    """Each layer makes its own operations in its own order, as in a worker of its own, so nothing new can deadlock.

    Messages of 17,000 numbers are longer than the 64 KiB that gRPC takes before it waits for the receiver.
    """
    r = recipe(
        (5, *[4] * 49, width, *[4] * 49, 3),
        rule=rule,
        schedule=schedule,
        micro_batches=micro_batches,
        batch_size=micro_batches,
        max_steps=steps,
        probe_every=2,
        eval_every=1,
        feedback=FeedbackConfig(renew=RenewConfig(below=0.9)) if rule == "dfa" else FeedbackConfig(),
    )
    assert_workers_change_no_bit(r, cut(50, layers=100), window=1, data=raw(r, rows=micro_batches + 20))


def test_the_same_error_crosses_once_for_all_layers_of_a_worker():
    r = recipe(MANY, rule="dfa", micro_batches=4, max_steps=3)
    rows, classes = 3 * 16, MANY[-1]
    traffic = assert_workers_change_no_bit(r, cut(3, 8))
    table = boundary_bytes(traffic, r.network.boundaries)
    down = {(row["boundary"], "shared" in row): row["down_payload"] for row in table if row["down_payload"]}
    assert down == {(1, True): 4 * rows * classes, (4, True): 4 * rows * classes}
    up = {row["boundary"]: row["up_payload"] for row in table if row["up_payload"]}
    assert up == {3: 4 * rows * MANY[3], 8: 4 * rows * MANY[8]}
    inside = {row["boundary"]: row["inside"] for row in table if row["inside"]}
    passed_up = {b: 4 * rows * MANY[b] for b in range(1, LAYERS) if b not in (3, 8)}
    told = dict.fromkeys(range(9, LAYERS), 4 * rows * classes)
    assert inside == {b: passed_up.get(b, 0) + told.get(b, 0) for b in {*passed_up, *told}}


def test_a_rank_makes_every_error_another_and_each_crosses_by_itself():
    r = recipe(MANY, rule="dfa", max_steps=2, feedback=FeedbackConfig(rank=2))
    sent = {link for link, _ in assert_workers_change_no_bit(r, TWO) if link.direction is Direction.DOWN}
    assert {link.boundary for link in sent} == set(r.network.boundaries)


def test_a_lossless_signal_inside_a_worker_is_the_tensor_itself(monkeypatch):
    from distfa.core.layer import Layer

    given_out, taken_in = [], []
    forward = Layer.forward

    def noted(self, h_in, part, **options):
        taken_in.append((self.index, part, h_in.data_ptr()))
        h = forward(self, h_in, part, **options)
        given_out.append((self.index + 1, part, h.data_ptr()))
        return h

    monkeypatch.setattr(Layer, "forward", noted)
    with ThreadRun(recipe(max_steps=2), workers=((1, 2, 3, 4),)) as run:
        run.train()
    assert taken_in
    assert {entry for entry in taken_in if entry[0] > 1} == {entry for entry in given_out if entry[0] <= 4}


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    widths=st.lists(st.integers(1, 6), min_size=2, max_size=12),
    rule=st.sampled_from(sorted(RULES)),
    schedule=st.sampled_from(["sync", "async"]),
    micro_batches=st.integers(1, 16),
    window=st.integers(1, 3),
    data=st.data(),
)
def test_no_network_stops_on_any_workers(widths, rule, schedule, micro_batches, window, data):
    layers = len(widths) - 1
    ends = (
        data.draw(st.lists(st.integers(1, layers), unique=True, max_size=layers - 1).map(sorted)) if layers > 1 else []
    )
    r = recipe(
        widths, rule=rule, schedule=schedule, micro_batches=micro_batches, max_steps=3, probe_every=2, eval_every=1
    )
    workers = cut(*(end for end in ends if end < layers), layers=layers)
    assert_workers_change_no_bit(r, workers, window=window, data=raw(r, rows=40))
