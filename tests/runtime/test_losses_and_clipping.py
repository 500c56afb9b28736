"""What the output layer and the updates can be told: the wire has the bits of the oracle, and the books hold."""

import numpy as np
import pytest
from runs import assert_same_bits, raw, recipe, run_serial, run_threads

from distfa.core.base.optim import OptimizerConfig
from distfa.core.books.ledger import LedgerRecord
from distfa.runtime.job import RawTargets

CASES = {
    "smoothing and weights": {"label_smoothing": 0.1, "class_weights": (1.0, 2.0, 0.5, 1.0, 3.0)},
    "several labels": {"loss": "bce"},
    "clipped by norm": {"optimizer": OptimizerConfig(lr=1e-2, clip_norm=0.05), "rule": "fa"},
    "clipped by value under kp": {"optimizer": OptimizerConfig(name="sgd", lr=0.05, clip_value=0.01), "rule": "kp"},
}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_the_wire_has_the_oracles_bits_and_the_law_holds(changes):
    of = recipe(micro_batches=2, ledger_every=1, **changes)
    inputs, targets = raw(of)
    if of.loss == "bce":
        rows = np.random.default_rng(0)
        targets = RawTargets(
            train=rows.integers(0, 2, (75, 5)).astype(np.float32), test=rows.integers(0, 2, (20, 5)).astype(np.float32)
        )
    weights, records, _ = run_serial(of, (inputs, targets))
    wired, _ = run_threads(of, (inputs, targets))
    assert_same_bits(weights, wired)
    entries = [record for record in records if isinstance(record, LedgerRecord)]
    assert entries
    assert all(entry.holds for entry in entries)


def test_clipping_really_clips():
    loose, _, _ = run_serial(recipe(rule="fa"))
    tight, _, _ = run_serial(
        recipe(rule="fa", optimizer=OptimizerConfig(name="sgd", lr=0.05, momentum=0.9, clip_norm=1e-3))
    )
    assert any(not np.allclose(loose[key], tight[key]) for key in loose)
