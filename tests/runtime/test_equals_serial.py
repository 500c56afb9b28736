"""Layer workers over a wire equal the serial oracle, bit for bit."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs import assert_same_bits, raw, recipe, run_serial, run_threads

from distfa.core.activations import NAMES
from distfa.core.optim import OptimizerConfig
from distfa.core.rules import RULES
from distfa.transport.base import WireConfig

MANY = (12, 5, 17, 9, 3, 14, 6, 8, 10, 11, 12, 13, 4, 15, 7, 3, 5)
DTYPES = [torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("micro_batches", [1, 4])
@pytest.mark.parametrize("rule", RULES)
def test_two_hundred_steps_over_grpc(rule, micro_batches, dtype):
    r = recipe(rule=rule, micro_batches=micro_batches, dtype=dtype, epochs=40, eval_every=13)
    assert r.epochs * 5 == 200  # 75 rows in batches of 16: the last batch has 11 rows, which 4 does not divide
    serial, serial_records, _ = run_serial(r)
    wired, wired_records = run_threads(r)
    assert_same_bits(serial, wired)
    assert serial_records == wired_records


@pytest.mark.parametrize("sizes", [(12, 5), MANY], ids=["1 layer", "16 layers"])
@pytest.mark.parametrize("rule", RULES)
def test_one_layer_and_sixteen_of_unequal_widths(sizes, rule):
    r = recipe(sizes, rule=rule, micro_batches=3, optimizer=OptimizerConfig(name="adam", lr=1e-3), max_steps=12)
    serial, serial_records, _ = run_serial(r)
    wired, wired_records = run_threads(r)
    assert_same_bits(serial, wired)
    assert serial_records == wired_records


@pytest.mark.parametrize("codec", ["bf16", "int8", "fp32"])
def test_lossy_codecs_lose_the_same_bits_in_both(codec):
    r = recipe(rule="dfa", dtype=torch.float64)
    assert_same_bits(
        run_serial(r, activations=codec, errors="bf16")[0], run_threads(r, activations=codec, errors="bf16")[0]
    )


@pytest.mark.parametrize("rule", RULES)
def test_a_window_of_one_signal_is_enough(rule):
    r = recipe(MANY, rule=rule, micro_batches=8, batch_size=24, max_steps=6)
    assert_same_bits(run_serial(r)[0], run_threads(r, wire=WireConfig(window=1, deadline_seconds=10))[0])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    sizes=st.lists(st.integers(1, 20), min_size=2, max_size=6),
    rule=st.sampled_from(sorted(RULES)),
    init=st.sampled_from(["aligned", "random"]),
    activation=st.sampled_from(NAMES),
    batch_size=st.integers(1, 30),
    micro_batches=st.integers(1, 9),
    loss=st.sampled_from(["cross_entropy", "mse"]),
)
def test_any_shape_of_run_over_loopback(sizes, rule, init, activation, batch_size, micro_batches, loss):
    r = recipe(
        sizes,
        rule=rule,
        init=init,
        activation=activation,
        batch_size=batch_size,
        micro_batches=micro_batches,
        loss=loss,
        max_steps=7,
        optimizer=OptimizerConfig(name="sgd", lr=0.01),
    )
    data = raw(r, rows=41)
    serial, serial_records, _ = run_serial(r, data)
    wired, wired_records = run_threads(r, data, transport="loopback")
    assert_same_bits(serial, wired)
    assert serial_records == wired_records
