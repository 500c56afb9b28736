"""Batches, micro-batches and the schedule."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import recipe

from distfa.core.base import order
from distfa.core.base.optim import OptimizerConfig, rate
from distfa.core.rules import RULES
from distfa.core.schedule import delay, flows, forwards_ahead, operations


@given(
    samples=st.integers(1, 60),
    batch_size=st.integers(1, 20),
    micro_batches=st.integers(1, 25),
    epochs=st.integers(1, 3),
)
def test_every_epoch_reads_every_row_once_and_no_part_is_empty(samples, batch_size, micro_batches, epochs):
    r = recipe(batch_size=batch_size, micro_batches=micro_batches, epochs=epochs)
    batches = list(order.batches(r, samples))
    assert len(batches) == order.count_steps(r, samples) == epochs * -(-samples // batch_size)
    for epoch in range(epochs):
        parts = [part for batch in batches if batch.epoch == epoch for part in batch.parts]
        assert sorted(np.concatenate(parts)) == list(range(samples))
        assert all(len(part) for part in parts)
    assert all(batch.rows <= batch_size and len(batch.parts) <= micro_batches for batch in batches)
    assert [batch.step for batch in batches] == list(range(len(batches)))


SHARDS = st.lists(st.integers(1, 9), min_size=1, max_size=12)


@given(shards=SHARDS, window=st.integers(1, 5), batch_size=st.integers(1, 20), first=st.integers(0, 60))
def test_rows_of_shards_come_window_by_window_and_from_any_step_on_in_the_same_order(shards, window, batch_size, first):
    rows = sum(shards)
    r = recipe(batch_size=batch_size, epochs=2, shards=tuple(shards), window=window)
    batches = list(order.batches(r, rows))
    shard_of = np.repeat(np.arange(len(shards)), shards)
    for epoch in range(2):
        read = np.concatenate([part for batch in batches if batch.epoch == epoch for part in batch.parts])
        assert sorted(read) == list(range(rows))
        opened = list(dict.fromkeys(shard_of[read].tolist()))
        windows = [set(opened[at : at + window]) for at in range(0, len(opened), window)]
        turns = [next(n for n, each in enumerate(windows) if shard in each) for shard in shard_of[read]]
        assert turns == sorted(turns)  # no row of a window comes after one of the next
    for expected, found in zip(batches[first:], order.batches(r, rows, first=first), strict=True):
        assert expected.step == found.step
        for one, other in zip(expected.parts, found.parts, strict=True):
            np.testing.assert_array_equal(one, other)


def test_epochs_and_seeds_shuffle_shards_and_their_rows_anew():
    r = recipe(batch_size=60, epochs=2, shards=(10,) * 6, window=2)
    epochs = [batch.parts[0] for changed in (r, replace(r, seed=8)) for batch in order.batches(changed, 60)]
    for part in (slice(None), slice(0, 20)):
        drawn = {tuple(rows[part].tolist()) for rows in epochs}
        assert len(drawn) == 4
    assert len({frozenset((rows[:20] // 10).tolist()) for rows in epochs}) > 1


@given(
    samples=st.integers(1, 60),
    batch_size=st.integers(1, 20),
    micro_batches=st.integers(1, 25),
    max_steps=st.none() | st.integers(1, 9),
)
def test_the_rows_of_micro_batches_are_known_without_drawing_them(samples, batch_size, micro_batches, max_steps):
    r = recipe(batch_size=batch_size, micro_batches=micro_batches, max_steps=max_steps, epochs=1)
    assert order.part_rows(r, samples) == {len(part) for batch in order.batches(r, samples) for part in batch.parts}


def test_the_last_step_always_evaluates_and_max_steps_cuts():
    r = recipe(epochs=5, eval_every=2, max_steps=13)
    batches = list(order.batches(r, 75))  # 5 steps an epoch
    assert [batch.step for batch in batches if batch.evaluate] == [9, 12]


def test_epochs_are_shuffled_differently():
    first, second = (b for b in order.batches(recipe(epochs=2, batch_size=75), 75))
    assert not np.array_equal(first.parts[0], second.parts[0])


def test_evaluation_covers_the_test_set_in_order():
    assert np.array_equal(np.concatenate(list(order.evaluation(recipe(), 2345))), np.arange(2345))
    assert list(order.evaluation(recipe(), 0)) == []


NETS = {3: (4, 5, 6, 3), 4: (4, 5, 6, 7, 3), 1: (4, 3), 16: (4, *range(5, 20), 3)}


def written(r, layer, samples):
    """The operations of a layer as text: F3 is the forward of micro-batch 3, counted over the run; U the update."""
    first, count, words = {}, 0, []
    for batch in order.batches(r, samples):
        first[batch.step], count = count, count + len(batch.parts)
    for op in operations(order.batches(r, samples), forwards_ahead(r, layer)):
        name = type(op).__name__[0] if type(op).__name__ != "Begin" else "|"
        words.append(f"{name}{first[op.batch.step] + op.micro_batch}" if name in "FB" and name != "|" else name)
    return " ".join(words)


def test_sync_schedule_of_three_layers_and_four_micro_batches():
    r = recipe(NETS[3], micro_batches=4, batch_size=8, max_steps=1)
    assert [written(r, layer, 8) for layer in (1, 2, 3)] == [
        "F0 F1 F2 | B0 F3 B1 B2 B3 U E",
        "F0 F1 | B0 F2 B1 F3 B2 B3 U E",
        "F0 | B0 F1 B1 F2 B2 F3 B3 U E",
    ]


def test_async_schedule_goes_on_with_the_next_step_and_runs_empty_before_an_evaluation():
    r = recipe(NETS[3], rule="fa", micro_batches=3, batch_size=6, epochs=1, schedule="async")
    assert [written(r, layer, 12) for layer in (1, 2, 3)] == [
        "F0 F1 F2 | B0 F3 B1 F4 B2 U F5 | B3 B4 B5 U E",
        "F0 F1 | B0 F2 B1 F3 B2 U F4 | B3 F5 B4 B5 U E",
        "F0 | B0 F1 B1 F2 B2 U F3 | B3 F4 B4 F5 B5 U E",
    ]


def test_async_starts_as_sync_where_asked():
    settings = {"micro_batches": 3, "batch_size": 6, "epochs": 2, "rule": "fa"}
    drains = [b.drains for b in order.batches(recipe(NETS[3], schedule="async", sync_epochs=1, **settings), 18)]
    assert drains == [True] * 3 + [False] * 2 + [True]
    assert all(b.drains for b in order.batches(recipe(NETS[3], **settings), 18))


@pytest.mark.parametrize("schedule", ["sync", "async"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layers", NETS)
@pytest.mark.parametrize("micro_batches", [1, 2, 3, 7])
def test_every_schedule_does_each_part_once_forward_first_backwards_in_order(layers, micro_batches, rule, schedule):
    r = recipe(NETS[layers], rule=rule, micro_batches=micro_batches, batch_size=9, schedule=schedule, epochs=2)
    for layer in range(1, layers + 1):
        words = written(r, layer, 31).split()  # the last batch of an epoch has 4 rows
        forwards, backwards = ([w[1:] for w in words if w[0] == kind] for kind in "FB")
        assert forwards == backwards == [str(i) for i in range(len(forwards))]
        waiting = since = 0
        for word in words:
            waiting += {"F": 1, "B": -1}.get(word[0], 0)
            assert 0 <= waiting <= layers - layer + 1
            since = 0 if word == "U" else since + (word[0] == "B")
            assert word != "E" or (waiting, since) == (0, 0)
        assert delay(r, layer) <= max(0, micro_batches - 1)
        assert schedule == "async" or delay(r, layer) == 0


def test_a_delay_is_what_an_error_takes_to_come_back_and_less_than_a_step():
    def delays(rule, micro_batches):
        r = recipe(NETS[4], rule=rule, micro_batches=micro_batches, batch_size=16, schedule="async")
        return [delay(r, layer) for layer in (1, 2, 3, 4)]

    assert delays("fa", 8) == delays("bp", 4) == [3, 2, 1, 0]
    assert delays("fa", 2) == [1, 1, 1, 0]
    assert delays("dfa", 8) == [2, 1, 1, 0]
    assert delays("drtp", 8) == delays("fa", 1) == [0, 0, 0, 0]


def test_learning_rates_warm_up_and_fall():
    def rates(**settings):
        return [rate(OptimizerConfig(lr=2.0, **settings), step, 6) for step in range(6)]

    assert rates() == [2.0] * 6
    assert rates(warmup_steps=4) == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert rates(schedule="linear", warmup_steps=2, final_lr=0.5) == [1.0, 2.0, 2.0, 1.75, 1.5, 1.25]
    cosine = rates(schedule="cosine")
    assert cosine == sorted(cosine, reverse=True)
    assert (cosine[0], cosine[3]) == (2.0, pytest.approx(1.0))
    batches = list(order.batches(recipe(optimizer=OptimizerConfig(lr=2.0, schedule="cosine")), 75))
    assert batches[5].lr == pytest.approx(1.0)


def test_hop_by_hop_rules_need_a_micro_batch_per_layer_to_flow():
    def fits(rule, micro_batches, schedule="async"):
        return flows(recipe(NETS[4], rule=rule, micro_batches=micro_batches, batch_size=16, schedule=schedule))

    assert [fits("fa", m) for m in (2, 3, 4, 8)] == [False, False, True, True]
    assert fits("dfa", 2)
    tree = recipe(NETS[16], rule="dfa", micro_batches=10, batch_size=16, schedule="async", fanout=2)
    assert not flows(tree)
    assert flows(replace(tree, micro_batches=11))
    assert fits("drtp", 2)
    assert fits("bp", 1, "sync")
