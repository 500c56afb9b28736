"""Batches, micro-batches and the schedule."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import recipe

from distfa.core import order
from distfa.core.schedule import Backward as B
from distfa.core.schedule import Forward as F
from distfa.core.schedule import sync


@given(
    samples=st.integers(1, 60),
    batch_size=st.integers(1, 20),
    micro_batches=st.integers(1, 25),
    epochs=st.integers(1, 3),
)
def test_every_epoch_reads_every_row_once_and_no_part_is_empty(samples, batch_size, micro_batches, epochs):
    r = recipe(batch_size=batch_size, micro_batches=micro_batches, epochs=epochs)
    batches = list(order.batches(r, samples))
    assert len(batches) == order.steps(r, samples) == epochs * -(-samples // batch_size)
    for epoch in range(epochs):
        parts = [part for batch in batches if batch.epoch == epoch for part in batch.parts]
        assert sorted(np.concatenate(parts)) == list(range(samples))
        assert all(len(part) for part in parts)
    assert all(batch.rows <= batch_size and len(batch.parts) <= micro_batches for batch in batches)
    assert [batch.step for batch in batches] == list(range(len(batches)))


def test_the_last_step_always_evaluates_and_max_steps_cuts():
    r = recipe(epochs=5, eval_every=2, max_steps=13)
    batches = list(order.batches(r, 75))  # 5 steps an epoch
    assert [batch.step for batch in batches if batch.evaluate] == [9, 12]


def test_epochs_are_shuffled_differently():
    first, second = (b for b in order.batches(recipe(epochs=2, batch_size=75), 75))
    assert not np.array_equal(first.parts[0], second.parts[0])


def test_evaluation_covers_the_test_set_in_order():
    assert np.array_equal(np.concatenate(list(order.evaluation(2345))), np.arange(2345))
    assert list(order.evaluation(0)) == []


def test_sync_schedule_of_three_layers_and_four_micro_batches():
    assert [list(sync(layer, 3, 4)) for layer in (1, 2, 3)] == [
        [F(0), F(1), F(2), B(0), F(3), B(1), B(2), B(3)],
        [F(0), F(1), B(0), F(2), B(1), F(3), B(2), B(3)],
        [F(0), B(0), F(1), B(1), F(2), B(2), F(3), B(3)],
    ]


@pytest.mark.parametrize("layers", [1, 2, 5, 16])
@pytest.mark.parametrize("micro_batches", [1, 2, 3, 7])
def test_sync_schedule_does_each_part_once_forward_first_backwards_in_order(layers, micro_batches):
    for layer in range(1, layers + 1):
        operations = list(sync(layer, layers, micro_batches))
        assert [op for op in operations if isinstance(op, B)] == [B(m) for m in range(micro_batches)]
        assert [op for op in operations if isinstance(op, F)] == [F(m) for m in range(micro_batches)]
        kept = most = 0
        for op in operations:
            kept += 1 if isinstance(op, F) else -1
            assert kept >= 0
            most = max(most, kept)
        assert most <= layers - layer + 1
