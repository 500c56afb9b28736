"""The ledger of a distributed run: the serial one bit for bit, and a checksum of the signals."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import in_turn, pairwise
from runs import ThreadRun, assert_same_bits, recipe, run_serial
from test_failures import Meddler

from distfa.core.books import digest
from distfa.core.books.digest import DigestRecord
from distfa.core.books.ledger import LedgerRecord, describe_violation
from distfa.core.books.probe import ProbeRecord
from distfa.core.rules import RULES
from distfa.runtime.coordinator import boundary_bytes, bytes_apart
from distfa.transport import serde
from distfa.transport.base import WireConfig
from distfa.transport.message import Kind

WIRE = WireConfig(deadline_seconds=5.0)


def entries(records):
    return sorted((r for r in records if isinstance(r, LedgerRecord)), key=lambda e: (e.step, e.boundary))


def ledger(r, **options):
    with ThreadRun(r, wire=WIRE, **options) as run:
        return entries(run.train()[1])


@pairwise(
    rule=[name for name, rule in RULES.items() if rule.potential],
    schedule=["sync", "async"],
    dtype=[torch.float64, torch.float32],
)
def test_distributed_books_equal_serial_ones_bit_for_bit(rule, schedule, dtype):
    r = recipe(
        rule=rule, schedule=schedule, dtype=dtype, ledger_every=1, ledger_neurons=True, micro_batches=3, epochs=2
    )
    expected = entries(run_serial(r)[1])
    assert len(expected) == 10 * 3
    assert ledger(r) == expected


@in_turn(rule=RULES, schedule=["sync", "async"])
def test_distributed_probes_equal_serial_ones_bit_for_bit_and_are_counted_apart(rule, schedule):
    r = recipe(rule=rule, schedule=schedule, probe_every=2, micro_batches=3, epochs=2)
    expected = [p for p in run_serial(r)[1] if isinstance(p, ProbeRecord)]
    with ThreadRun(r, wire=WIRE) as run:
        weights, records = run.train()
        traffic = run.coordinator.traffic()
    assert [p for p in records if isinstance(p, ProbeRecord)] == expected
    assert len(expected) == 5
    assert bytes_apart(traffic)["probe"] > 0
    plain = recipe(rule=rule, schedule=schedule, micro_batches=3, epochs=2)
    with ThreadRun(plain, wire=WIRE, transport="loopback") as run:
        unprobed, _ = run.train()
        boundaries = plain.network.boundaries
        assert boundary_bytes(run.coordinator.traffic(), boundaries) == boundary_bytes(traffic, boundaries)
    assert_same_bits(weights, unprobed)


def altering(kind, step, factor, dtype):
    """Multiply the largest number of one message by a factor, checksum and all: only algebra can tell."""

    def meddle(message):
        if message.identity.kind is kind and message.identity.step == step:
            values = message.payload.copy().view(dtype)
            values[np.abs(values).argmax()] *= factor
            payload = values.view(np.uint8)
            return [replace(message, payload=payload, checksum=serde.checksum(payload))]
        return [message]

    return meddle


def broken_by(meddle, dtype, rule="fa", layer=2, **settings):
    r = recipe(rule=rule, dtype=dtype, ledger_every=1, max_steps=8, **settings)

    def wrap(index, transport):
        return Meddler(transport, meddle) if index == layer else transport

    found = ledger(r, wrap_transport=wrap, transport="loopback")
    assert len(found) == 8 * 3
    return {(e.step, e.boundary): describe_violation(e) for e in found if not e.holds}


@pytest.mark.parametrize(("kind", "boundary"), [(Kind.ACTIVATION, 2), (Kind.ERROR, 1)])
@pytest.mark.parametrize("rule", ["fa", "bp", "usf", "frsf"])
def test_one_number_altered_by_a_millionth_is_found_at_its_boundary_and_step_and_no_other(rule, kind, boundary):
    # tanh: under ReLU an error signal to a neuron that is off changes nothing, and so is rightly not found
    broken = broken_by(altering(kind, 5, 1 + 1e-6, np.float64), torch.float64, rule, activation="tanh")
    assert set(broken) == {(5, boundary)}
    assert "in transport" in broken[5, boundary]


@pytest.mark.parametrize("mixed", [False, True], ids=["float32", "mixed"])
@pytest.mark.parametrize(("kind", "boundary"), [(Kind.ACTIVATION, 2), (Kind.ERROR, 1)])
def test_a_message_of_the_step_before_under_a_new_name_is_found(kind, boundary, mixed):
    before = {}

    def replay(message):
        if message.identity.kind is kind:
            old, before[kind] = before.get(kind), message
            if message.identity.step == 3:
                return [replace(old, identity=message.identity)]
        return [message]

    assert set(broken_by(replay, torch.float32, mixed=mixed)) == {(3, boundary)}


def test_a_lossy_codec_declared_lossless_is_found():
    def rounding(message):
        if message.identity.kind is Kind.ACTIVATION and message.identity.step == 2:
            values = torch.from_numpy(message.payload.copy().view(np.float32))
            payload = values.bfloat16().float().numpy().view(np.uint8)
            return [replace(message, payload=payload, checksum=serde.checksum(payload))]
        return [message]

    assert set(broken_by(rounding, torch.float32)) == {(2, 2)}


def test_feedback_matrices_that_differ_between_the_two_ends_are_found_from_the_first_step():
    r = recipe(rule="fa", ledger_every=1, max_steps=3)
    with ThreadRun(r, transport="loopback") as run:
        sender = run.handles[2].hosted.layers[0].layer  # layer 2 is narrower than layer 3, so the sender applies B
        sender.ends.origin[2] = {name: matrix * 1.01 for name, matrix in sender.ends.origin[2].items()}
        found = entries(run.train()[1])
    assert {(e.step, e.boundary) for e in found if not e.holds} == {(0, 2), (1, 2), (2, 2)}


def test_a_declared_lossy_codec_is_entered_as_transport_and_is_no_violation():
    r = recipe(rule="fa", ledger_every=1, max_steps=5)
    found = ledger(r, activations="int8")
    assert [entry.transport_tolerance for entry in found] == [float("inf")] * 15
    assert all(abs(entry.residual) <= entry.tolerance < 1e-3 for entry in found)
    assert any(abs(entry.transport) > 1e-6 for entry in found)
    assert found == entries(run_serial(r, activations="int8")[1])


def compared(meddle=lambda message: [message], layer=2, **settings):
    """All digest records of a run of 4 steps in which one layer's messages are meddled with."""
    r = recipe(ledger_every=2, ledger_exact=True, max_steps=4, micro_batches=2, **settings)

    def wrap(index, transport):
        return Meddler(transport, meddle) if index == layer else transport

    with ThreadRun(r, wire=WIRE, wrap_transport=wrap, transport="loopback") as run:
        return [record for record in run.train()[1] if isinstance(record, DigestRecord)]


@pytest.mark.parametrize(("rule", "links"), [("fa", 6), ("dfa", 6), ("kp", 6), ("brsf", 6), ("drtp", 3)])
def test_exact_books_compare_every_signal_of_the_steps_that_are_due(rule, links):
    found = compared(rule=rule)
    assert all(record.holds for record in found)
    assert len(found) == links * 2 * 2  # micro-batches, steps
    assert {record.step for record in found} == {0, 2}


@pytest.mark.parametrize("rule", ["kp", "fa", "drtp"])
def test_the_last_bit_of_one_number_shows_with_its_direction(rule):
    def last_bit(message):
        if (message.identity.kind, message.identity.step, message.identity.micro_batch) != (Kind.ACTIVATION, 2, 1):
            return [message]
        payload = message.payload.copy()
        payload[4 * 7] ^= 1
        return [replace(message, payload=payload, checksum=serde.checksum(payload))]

    (broken,) = (record for record in compared(last_bit, rule=rule) if not record.holds)
    assert digest.describe_difference(broken).startswith(
        "boundary 2 (layers 2 and 3), step 2, going up: the activation of micro-batch 1 that layer 3 used is not "
        "the one that layer 2 sent"
    )


def test_an_error_to_a_lower_boundary_of_dfa_shows_though_its_potential_is_local():
    found = compared(altering(Kind.ERROR, 2, 1 + 1e-6, np.float32), layer=4, rule="dfa")
    broken = {(record.boundary, record.direction, record.sender) for record in found if not record.holds}
    assert broken == {(b, "down", 4) for b in (1, 2, 3)}


def test_exact_books_hold_under_a_lossy_codec():
    r = recipe(ledger_every=1, ledger_exact=True, max_steps=3, rule="fa")
    with ThreadRun(r, wire=WIRE, activations="int8", errors="bf16") as run:
        found = [record for record in run.train()[1] if isinstance(record, DigestRecord)]
    assert len(found) == 18
    assert all(record.holds for record in found)
