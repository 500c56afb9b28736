"""packed leaves out +0.0 and nothing else, in a signal and in a run."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import ThreadRun, assert_same_bits, recipe, run_serial

from distfa.codecs import CODECS
from distfa.core.books.ledger import LedgerRecord, describe_violation
from distfa.core.books.records import EvalRecord, StepRecord
from distfa.core.rules import RULES
from distfa.runtime.coordinator import boundary_bytes

PACKED = CODECS["packed"]
WORDS = {torch.float32: np.uint32, torch.float64: np.uint64}
quickly = settings(max_examples=60, deadline=None)


def words(signal):
    """The bits of every number."""
    return signal.numpy().view(WORDS[signal.dtype])


@quickly
@given(st.data(), st.sampled_from(list(WORDS)), st.integers(1, 5), st.integers(1, 20))
def test_every_bit_pattern_comes_back(data, dtype, rows, columns):
    """NaN with its payload, -0.0 and subnormal numbers among them."""
    bits = 8 * dtype.itemsize
    special = [0, 1, 1 << (bits - 1), (1 << bits) - 1]  # 0.0, the smallest, -0.0, a NaN
    pattern = st.sampled_from(special) | st.integers(0, (1 << bits) - 1)
    drawn = data.draw(st.lists(pattern, min_size=rows * columns, max_size=rows * columns))
    given_words = np.array(drawn, WORDS[dtype]).reshape(rows, columns)
    signal = torch.from_numpy(given_words.view(f"f{dtype.itemsize}"))
    payload = PACKED.encode(signal)
    kept = np.count_nonzero(given_words)
    assert payload.nbytes == rows * -(-columns // 8) + kept * dtype.itemsize
    np.testing.assert_array_equal(words(PACKED.decode(payload, rows, columns, dtype)), given_words)


@pytest.mark.parametrize("dtype", WORDS)
def test_a_signal_of_zeros_is_its_bits_alone(dtype):
    payload = PACKED.encode(torch.zeros(3, 17, dtype=dtype))
    assert payload.tolist() == [0] * 9


def test_the_payload_is_as_the_proto_describes_it():
    signal = torch.tensor([[0.0, 1.0, 0, 0, 0, 0, 0, 0, -0.0], [0, 0, 0, 0, 0, 0, 0, 2.0, 0.0]])
    bits, numbers = [0b01000000, 0b10000000, 0b00000001, 0], np.array([1.0, -0.0, 2.0], "<f4")
    assert PACKED.encode(signal).tobytes() == bytes(bits) + numbers.tobytes()


@pytest.mark.parametrize("dtype", WORDS)
@pytest.mark.parametrize("rule", RULES)
def test_a_run_equals_the_serial_run_and_keeps_the_law(rule, dtype):
    r = recipe(rule=rule, dtype=dtype, micro_batches=2, ledger_every=3)
    weights, plain, _ = run_serial(r)
    with ThreadRun(r, activations="packed", errors="packed", transport="loopback") as run:
        found, records = run.train()
        table = boundary_bytes(run.coordinator.traffic(), r.network.boundaries)
    assert_same_bits(found, weights)
    for kind in (StepRecord, EvalRecord):
        got, expected = ([x for x in each if isinstance(x, kind)] for each in (records, plain))
        assert [(x.step, x.loss, x.correct) for x in got] == [(x.step, x.loss, x.correct) for x in expected]
    entries = [record for record in records if isinstance(record, LedgerRecord)]
    assert bool(entries) == bool(RULES[rule].potential)
    for entry in entries:
        assert np.isfinite(entry.transport_tolerance)
        assert describe_violation(entry) is None
    for row in table:
        dense = 2 * 75 * r.network.sizes[row["boundary"]] * dtype.itemsize
        assert 0 < row["up_payload"] < dense


def test_a_run_over_grpc_equals_the_serial_run():
    r = recipe(rule="dfa")
    with ThreadRun(r, activations="packed", errors="packed") as run:
        found, _ = run.train()
    assert_same_bits(found, run_serial(r)[0])
