"""Layer workers over a wire equal the serial oracle, bit for bit."""

from dataclasses import replace
from itertools import cycle, product, repeat

import pytest
import torch
from cases import in_turn, label
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs import ThreadRun, assert_same_bits, by_kind, raw, recipe, run_serial, run_threads

from distfa.core.base.activations import NAMES
from distfa.core.base.optim import OptimizerConfig
from distfa.core.base.recipe import FeedbackConfig
from distfa.core.books.records import StepRecord
from distfa.core.routes import links
from distfa.core.rules import RULES
from distfa.transport.base import WireConfig
from distfa.transport.message import Direction, Kind

MANY = (12, 5, 17, 9, 3, 14, 6, 8, 10, 11, 12, 13, 4, 15, 7, 3, 5)
DTYPES = [torch.float32, torch.float64]
SCHEDULES = [("sync", 1), ("sync", 4), ("async", 4)]


def assert_wired_equals_serial(r, **options):
    """Weights and records, bit for bit."""
    serial, serial_records, _ = run_serial(r)
    wired, wired_records = run_threads(r, **options)
    assert_same_bits(serial, wired)
    assert serial_records == wired_records
    return serial_records


@in_turn(rule=RULES, how=product(SCHEDULES, DTYPES))
def test_forty_steps_over_grpc(rule, how):
    (schedule, micro_batches), dtype = how
    r = recipe(rule=rule, schedule=schedule, micro_batches=micro_batches, dtype=dtype, epochs=8, eval_every=3)
    records = assert_wired_equals_serial(r)
    # 75 rows in batches of 16: the last batch has 11 rows, which 4 does not divide
    assert sum(isinstance(record, StepRecord) for record in records) == 40


FOLDED = OptimizerConfig(name="sgd", lr=0.05, fold=True)


@in_turn(rule=RULES, how=product(SCHEDULES, DTYPES))
def test_folded_updates_are_the_same_whatever_the_engine_and_the_books(rule, how):
    (schedule, micro_batches), dtype = how
    settings = {"rule": rule, "schedule": schedule, "micro_batches": micro_batches, "dtype": dtype}
    folded = recipe(**settings, optimizer=FOLDED)
    weights, _, _ = run_serial(folded)
    assert_same_bits(weights, run_serial(recipe(**settings, optimizer=FOLDED, ledger_every=2, probe_every=3))[0])
    assert_same_bits(weights, run_threads(folded, workers=((1, 2), (3, 4)))[0])
    plain, _, _ = run_serial(recipe(**settings, optimizer=replace(FOLDED, fold=False)))
    assert any(not torch.equal(weight, plain[key]) for key, weight in weights.items())
    for key, weight in weights.items():
        torch.testing.assert_close(weight, plain[key], rtol=0, atol=100 * torch.finfo(dtype).eps)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "how", "dtype"),
    [
        ("bp", ("sync", 4), torch.float64),
        ("fa", ("sync", 1), torch.float32),
        ("dfa", ("async", 4), torch.float32),
        ("kp", ("async", 4), torch.float64),
    ],
    ids=label,
)
def test_two_hundred_steps_over_grpc(rule, how, dtype):
    schedule, micro_batches = how
    r = recipe(rule=rule, schedule=schedule, micro_batches=micro_batches, dtype=dtype, epochs=40, eval_every=13)
    records = assert_wired_equals_serial(r)
    assert sum(isinstance(record, StepRecord) for record in records) == 200


@in_turn(rule=RULES, how=product([(12, 5), MANY], ["sync", "async"]))
def test_one_layer_and_sixteen_of_unequal_widths(rule, how):
    sizes, schedule = how
    adam = OptimizerConfig(name="adam", lr=1e-3, schedule="cosine", warmup_steps=3)
    assert_wired_equals_serial(
        recipe(sizes, rule=rule, schedule=schedule, micro_batches=6, optimizer=adam, max_steps=6)
    )


@in_turn(
    rule=RULES,
    how=product([("lossless", "lossless"), ("int8", "int4sr"), ("packed", "fp32")], [("sync", 1), ("async", 4)]),
)
def test_mixed_runs_send_bfloat16_and_keep_float32(rule, how):
    (activations, errors), (schedule, micro_batches) = how
    r = recipe(
        rule=rule, schedule=schedule, micro_batches=micro_batches, mixed=True, epochs=3, ledger_every=3, probe_every=5
    )
    serial, serial_records, _ = run_serial(r, activations=activations, errors=errors)
    with ThreadRun(r, activations=activations, errors=errors) as run:
        wired, wired_records = run.train()
        up = run.coordinator.traffic()[links(r)[0], Kind.ACTIVATION]
    assert_same_bits(serial, wired)
    assert by_kind(serial_records) == by_kind(wired_records)
    assert all(weight.dtype == torch.float32 for weight in wired.values())
    if activations == "lossless":
        assert up.payload_bytes == 3 * 75 * 2 * r.network.sizes[1]


@pytest.mark.parametrize("codec", ["bf16", "int8", "fp32"])
def test_lossy_codecs_lose_the_same_bits_in_both(codec):
    r = recipe(rule="dfa", dtype=torch.float64)
    assert_same_bits(
        run_serial(r, activations=codec, errors="bf16")[0], run_threads(r, activations=codec, errors="bf16")[0]
    )


@pytest.mark.parametrize(
    ("rule", "schedule", "sizes"),
    [
        *zip(RULES, cycle(["async", "sync"]), repeat(MANY[:6])),
        pytest.param("bp", "async", MANY, marks=pytest.mark.slow),
        pytest.param("dfa", "sync", MANY, marks=pytest.mark.slow),
    ],
    ids=lambda value: f"{len(value) - 1} layers" if isinstance(value, tuple) else None,
)
def test_a_window_of_one_signal_is_enough(rule, schedule, sizes):
    """Who waits for whom follows from the routes: hop by hop, broadcast, or none."""
    r = recipe(sizes, rule=rule, schedule=schedule, micro_batches=12, batch_size=24, max_steps=3, probe_every=2)
    assert_same_bits(run_serial(r)[0], run_threads(r, wire=WireConfig(window=1, deadline_seconds=10))[0])


@pytest.mark.parametrize("rows", [17, 19, 33])
def test_a_probe_of_a_last_batch_with_fewer_rows_than_layers_are_behind(rows):
    """The serial engine let upper layers make the update of the probed step before the probe, and failed."""
    r = recipe((5, *[4] * 6, 3), rule="fa", schedule="async", micro_batches=8, epochs=3, probe_every=1)
    serial, serial_records, _ = run_serial(r, raw(r, rows=rows))
    weights, records = run_threads(r, raw(r, rows=rows))
    assert_same_bits(serial, weights)
    assert by_kind(serial_records) == by_kind(records)


@in_turn(fanout=[1, 2, 5], schedule=["sync", "async"])
def test_an_error_passed_on_by_a_tree_of_layers_is_the_error_sent_straight(fanout, schedule):
    r = recipe(MANY, rule="dfa", schedule=schedule, micro_batches=4, max_steps=3, probe_every=2)
    tree = replace(r, feedback=FeedbackConfig(fanout=fanout))
    straight, _, _ = run_serial(r)
    assert_same_bits(run_serial(tree)[0], straight)
    with ThreadRun(tree, wire=WireConfig(window=1, deadline_seconds=10)) as run:
        weights, _ = run.train()
        sent = {link.sender for link, kind in run.coordinator.traffic() if link.direction is Direction.DOWN}
        receivers = [link.receiver for link in links(tree) if link.direction is Direction.DOWN and link.sender == 16]
    assert_same_bits(weights, straight)
    assert len(receivers) == fanout
    assert len(sent) == -(-15 // fanout)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    sizes=st.lists(st.integers(1, 20), min_size=2, max_size=6),
    rule=st.sampled_from(sorted(RULES)),
    init=st.sampled_from(["aligned", "random"]),
    activation=st.sampled_from(NAMES),
    batch_size=st.integers(1, 30),
    micro_batches=st.integers(1, 9),
    schedule=st.sampled_from(["sync", "async"]),
    sync_epochs=st.integers(0, 2),
    loss=st.sampled_from(["cross_entropy", "mse"]),
)
def test_any_shape_of_run_over_loopback(
    sizes, rule, init, activation, batch_size, micro_batches, schedule, sync_epochs, loss
):
    r = recipe(
        sizes,
        rule=rule,
        init=init,
        activation=activation,
        batch_size=batch_size,
        micro_batches=micro_batches,
        schedule=schedule,
        sync_epochs=sync_epochs,
        loss=loss,
        max_steps=7,
        optimizer=OptimizerConfig(name="sgd", lr=0.01),
    )
    data = raw(r, rows=41)
    serial, serial_records, _ = run_serial(r, data)
    wired, wired_records = run_threads(r, data, transport="loopback")
    assert_same_bits(serial, wired)
    assert serial_records == wired_records
