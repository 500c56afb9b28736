"""The table of rules: every figure is the run's own, and bytes by closed form are what a wire counts."""

import numpy as np
import pytest
from torch import nn

from distfa.bench import variants
from distfa.bench.options import RulesOptions
from distfa.bench.rules import measure
from distfa.core.rules import RULES
from distfa.errors import BenchError, SpecError
from distfa.lab.links.accuracy_curve import train_to
from distfa.settings import parse_spec

TINY = {"model": {"hidden": [12, 8]}, "epochs": 2, "data": {"name": "digits", "limit": 200}, "engine": "serial"}
TINY |= {"ledger": {"every": 5}, "probe": {"every": 5}}


def tiny(*rules, **changes):
    kept = {"data.limit": 200, "ledger.every": 5, "probe.every": 5}
    return RulesOptions(**{"hidden": (12, 8), "epochs": 2, "rules": rules, "changes": kept, **changes})


def test_every_rule_and_init_is_a_row_with_its_bytes_and_alignment():
    said = []
    outcome = measure(tiny(), said.append)
    rows = {(row["rule"], row["init"]): row for row in outcome.rows}
    assert len(rows) == len(said) == len(outcome.raw) == 2 * (len(RULES) - 1) - 3
    assert any(note.endswith("no free shortcuts: skip") for note in outcome.notes)
    assert rows["bp", "any"]["alignment"] == pytest.approx(1, abs=1e-6)  # float32 against itself
    assert rows["bp", "any"]["kb_per_sample"] == pytest.approx(2 * (12 + 8) * 4 / 1000)  # as many down as up
    assert rows["dfa", "random"]["kb_per_sample"] == pytest.approx((12 + 8 + 2 * 10) * 4 / 1000)
    assert rows["drtp", "aligned"]["kb_per_sample"] == pytest.approx((12 + 8) * 4 / 1000)
    assert rows["fa", "random"]["angle_degrees"] > rows["fa", "aligned"]["angle_degrees"] > 0
    assert (rows["fa", "aligned"]["ledger_entries"], rows["fa", "aligned"]["ledger_violations"]) == (2 * 3, 0)
    assert rows["brsf", "any"]["ledger_entries"] == 0
    assert all(0 < row["test_accuracy"] <= 100 for row in outcome.rows)


def test_more_seeds_give_the_mean_and_the_deviation():
    outcome = measure(tiny("dfa", seeds=2), print)
    row, runs = outcome.rows[0], [run for run in outcome.raw if run["init"] == "aligned"]
    assert [run["seed"] for run in runs] == [0, 1]
    a, b = (run["test_accuracy"] for run in runs)
    assert row["test_accuracy"] == pytest.approx((a + b) / 2)
    assert row["spread"] == pytest.approx(abs(a - b) / 2**0.5)
    assert "spread" in outcome.columns
    assert not any("one seed" in note for note in outcome.notes)


def test_a_renewed_rule_is_a_row_of_its_own_with_the_bytes_of_its_renewals():
    fixed, renewed = measure(tiny("dfa", "dfa@5", inits=("aligned",)), print).rows
    assert (fixed["rule"], renewed["rule"]) == ("dfa", "dfa@5")
    assert renewed["alignment"] > fixed["alignment"]
    for row in (fixed, renewed):
        spec = parse_spec(
            {**TINY, **variants.parse_variant(row["rule"]), "ledger": {"every": 0}, "probe": {"every": 0}}
        )
        curve = train_to(spec, every=14, target=2.0)  # 200 samples in batches of 32, twice
        assert row["kb_per_sample"] == pytest.approx(curve.payload_bytes[-1] / 400 / 1000)


def small():
    """A user's function for the table of rules."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.LayerNorm(12), nn.Linear(12, 10))


@pytest.mark.parametrize("model", ["mlp", "test_bench_rules:small"])
def test_plain_torch_beside_bp_is_equal_on_any_model(model):
    size = {"epochs": 20, "max_steps": 12, "seeds": 2, "inits": ("aligned",)}
    outcome = measure(tiny("bp", "dfa", torch=True, model=model, **size), print)
    by_bp, by_torch = ([run for run in outcome.raw if run["rule"] == name] for name in ("bp", "torch"))
    assert [run["seed"] for run in by_torch] == [0, 1]
    assert [run["test_accuracy"] for run in by_torch] == pytest.approx([run["test_accuracy"] for run in by_bp])
    assert [run["test_loss"] for run in by_torch] == pytest.approx([run["test_loss"] for run in by_bp], rel=1e-5)
    assert any(note.startswith("plain torch and bp end within") for note in outcome.notes)
    assert [(row["rule"], row["init"]) for row in outcome.rows] == [("torch", "any"), ("bp", "any"), ("dfa", "aligned")]


@pytest.mark.slow
def test_a_ray_run_counts_the_bytes_of_the_closed_form():
    serial, ray = (measure(tiny("bp", engine=engine), print) for engine in ("serial", "ray"))
    assert serial.rows == ray.rows


def test_a_rule_that_diverges_is_a_row_without_figures_and_a_note():
    outcome = measure(tiny("bp", optimizer="sgd", lr=1e12), print)
    assert outcome.rows == [{"rule": "bp", "init": "any"}]
    assert any(note.startswith("bp aligned, seed 0, diverged: layer") for note in outcome.notes)


def test_unknown_rules_and_data_without_a_test_set_are_refused(tmp_path):
    with pytest.raises(SpecError, match="did you mean 'dfa'"):
        measure(tiny("dfaa"), print)
    x, y = np.eye(4, dtype=np.float32), np.arange(4)
    np.savez(tmp_path / "untested.npz", train_x=x, train_y=y, test_x=x[:0], test_y=y[:0])
    with pytest.raises(BenchError, match="no test samples"):
        measure(tiny("bp", data="npz", data_dir=str(tmp_path / "untested.npz"), changes={}), print)
