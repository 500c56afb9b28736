"""Networks of any modules: layer workers equal the serial oracle bit for bit, records and running statistics too."""

from itertools import product

import pytest
import torch
from cases import in_turn
from runs import ThreadRun, assert_same_bits, run_serial
from zoo import NETWORKS, made

from distfa.core.books.digest import DigestRecord
from distfa.core.books.ledger import LedgerRecord, describe_violation
from distfa.core.rules import RULES

SCHEDULES = (("sync", 1), ("sync", 4), ("async", 8))
SMALL = {"rows": 20, "test_rows": 4, "max_steps": 3, "epochs": 2, "ledger_every": 1}


def in_order(records):
    """Records in an order that does not depend on which layer was heard first."""
    parts = ("boundary", "direction", "micro_batch")
    return sorted(records, key=lambda r: (type(r).__name__, getattr(r, "step", 0), *(getattr(r, p, 0) for p in parts)))


def equal(name, *, transport="loopback", **settings):
    """Both engines' run, compared with each other; returns the serial records."""
    r, modules, data = made(name, **{**SMALL, **settings})
    serial, expected, _ = run_serial(r, data, modules=modules)
    with ThreadRun(r, data, modules=modules, transport=transport) as run:
        wired, records = run.train()
    assert_same_bits(serial, wired)
    assert in_order(records) == in_order(expected)
    entries = [record for record in expected if isinstance(record, LedgerRecord)]
    assert [describe_violation(entry) for entry in entries if not entry.holds] == []
    assert len(entries) == (3 * (len(r.network) - 1) if RULES[r.rule].potential else 0)
    return expected


@in_turn(how=product(NETWORKS, SCHEDULES), rule=RULES)
def test_every_network_by_every_rule(how, rule):
    network, (schedule, micro_batches) = how
    equal(network, rule=rule, schedule=schedule, micro_batches=micro_batches)


@pytest.mark.parametrize(("network", "rule"), [*zip(NETWORKS, ("fa", "kp", "usf", "dfa"), strict=True)])
def test_over_grpc_with_probes_and_exact_books(network, rule):
    found = equal(network, rule=rule, transport="grpc", micro_batches=2, probe_every=2, ledger_exact=True)
    digests = [record for record in found if isinstance(record, DigestRecord)]
    assert digests
    assert all(record.holds for record in digests)


@in_turn(how=product(NETWORKS, [{"mixed": True}, {"dtype": torch.float64}]), rule=["bp", "fa", "dfa"])
def test_mixed_and_float64(how, rule):
    network, settings = how
    equal(network, rule=rule, micro_batches=2, **settings)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    "settings",
    [
        {"rule": "fa", "init": "random", "inside": "feedback"},
        {"rule": "kp", "init": "random"},
        {"rule": "dfa", "init": "random", "fanout": 1},
        {"rule": "drtp", "init": "given"},
    ],
    ids=lambda s: s["rule"],
)
def test_random_feedback_and_feedback_inside(network, settings):
    equal(network, micro_batches=2, probe_every=2, **settings)
