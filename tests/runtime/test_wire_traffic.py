"""What goes over the wire: as many bytes as theory says, and never a weight or a feedback matrix."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from cases import in_turn
from runs import SIZES, ThreadRun, recipe

from distfa.codecs import CODECS, resolve
from distfa.core.rules import RULES, build_rule
from distfa.runtime.coordinator import boundary_bytes
from distfa.transport import serde
from distfa.transport.message import Kind

ROWS, STEPS = 75, 10  # two epochs in batches of 16


def columns(rule, boundary):
    """theory.md's table: columns per row on the hop down to layer ``boundary``."""
    below, above, outputs = SIZES[boundary], SIZES[boundary + 1], SIZES[-1]
    signs = dict.fromkeys(("bp", "usf", "frsf", "brsf"), below)
    return {
        **signs,
        "fa": min(below, above),
        "dfa": outputs,
        "dkp": outputs,
        "kp": above,
        "drtp": 0,
        "skip": SIZES[-2],
    }[rule]


@in_turn(rule=RULES, codecs=product(["fp32", "bf16", "int8"], ["fp32", "int8"]))
def test_payload_bytes_are_the_closed_form(rule, codecs):
    activations, errors = codecs
    width = {"fp32": lambda c: 4 * c, "bf16": lambda c: 2 * c, "int8": lambda c: c + 4 if c else 0}
    with ThreadRun(recipe(rule=rule), activations=activations, errors=errors, transport="loopback") as run:
        run.train()
        table = boundary_bytes(run.coordinator.traffic(), run.job.recipe.network.boundaries)
    assert [row["boundary"] for row in table] == [1, 2, 3]
    for row in table:
        rows = 2 * ROWS
        assert row["up_payload"] == rows * width[activations](SIZES[row["boundary"]])
        assert row["down_payload"] == rows * width[errors](columns(rule, row["boundary"]))
        for way in ("up", "down") if row["down_payload"] else ("up",):
            framing = row[f"{way}_message"] - row[f"{way}_payload"]
            assert 0 < framing <= STEPS * 64  # identity, shape, checksum and frame: some 60 bytes a message


@in_turn(rule=RULES, init=["aligned", "random"])
def test_no_weight_and_no_feedback_matrix_crosses_the_wire(rule, init):
    r = recipe(rule=rule, init=init, dtype=torch.float64, micro_batches=2)
    seen = []
    with ThreadRun(r, transport="loopback") as fresh:
        initial = [row for handle in fresh.handles for row in secrets(handle.hosted.layers[0].layer)]
    with ThreadRun(r, tap=lambda link, data: seen.append(serde.message_from_bytes(data))) as run:
        weights, _ = run.train()
    assert len({message.identity for message in seen}) == len(seen)  # no message was seen twice
    parts = STEPS * 2 * 3  # two halves of every batch, three boundaries
    expected = {Kind.ACTIVATION: parts, Kind.ERROR: parts, Kind.EVALUATION: 2 * 3}
    assert Counter(message.identity.kind for message in seen) == Counter(expected) - Counter(
        {Kind.ERROR: parts if rule == "drtp" else 0}
    )
    secret = {row.tobytes() for row in [*initial, *(row for w in weights.values() for row in rows_of(w))]}
    assert len(secret) > 2 * sum(SIZES[1:])  # rows of two sets of weights, and more
    for message in seen:
        signal = CODECS[message.codec].decode(message.payload, *message.shape, message.dtype)
        assert message.shape[0] in (8, 6, 5, 20)  # rows of samples: halves of 16 and 11, and the test set
        for line in (*rows_of(signal), *rows_of(signal.t())):
            assert line.tobytes() not in secret


def rows_of(matrix):
    """Rows of more than one number, as arrays."""
    return [np.ascontiguousarray(row) for row in np.atleast_2d(matrix.numpy()) if row.size > 1]


def secrets(layer):
    """Rows and columns of a layer's initial weights and of its feedback matrices."""
    matrices = [layer.weight, *layer.ends.tensors()]
    return [row for matrix in matrices for row in (*rows_of(matrix), *rows_of(matrix.t()))]


def test_evaluation_is_not_counted_as_training():
    with ThreadRun(recipe(max_steps=5), transport="loopback") as run:
        run.train()
        traffic = run.coordinator.traffic()
    evaluated = sum(t.payload_bytes for (_, kind), t in traffic.items() if kind is Kind.EVALUATION)
    assert evaluated == 20 * 4 * sum(SIZES[1:-1])
    assert sum(row["up_payload"] for row in boundary_bytes(traffic, range(1, 4))) == ROWS * 4 * sum(SIZES[1:-1])


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_says_how_wide_its_messages_are(rule):
    r = recipe(rule=rule)
    assert [build_rule(r).width(b) for b in r.network.boundaries] == [columns(rule, b) for b in r.network.boundaries]
    assert resolve("lossless", r.dtype).max_payload_bytes(3, 7, r.dtype) == 84
