"""Adding a rule is one file and one table row: a toy rule, written here, goes through everything there is.

Its feedback is half of the sign of every weight's start, so it stands in for weights, has a state at the origin, a
potential and so a law. Nothing outside this file knows it.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from commands import distfa, here
from runs import ThreadRun, assert_same_bits, raw, recipe, run_serial
from torch import Tensor
from zoo import made

from distfa.bench.outcome import Outcome
from distfa.core import rules
from distfa.core.books.ledger import LedgerRecord
from distfa.core.books.probe import ProbeRecord
from distfa.core.rules.base import HopRule
from distfa.runtime.coordinator import boundary_bytes

BOOKS = {"ledger_every": 1, "probe_every": 2, "ledger_exact": True}


class Toy(HopRule):
    """s_l = delta_{l+1} (c sign W_{l+1}(0))."""

    name = "toy"
    equation = "delta_{l+1} (c sign W_{l+1}(0))"
    sends = "d_l"
    potential = "c <sign W(0)[:,i], W[:,i]>"
    source = "this test"

    def origin_state(self, boundary: int, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: weight.double().sign() * 0.05 for name, weight in weights.items()}


@pytest.fixture(autouse=True)
def _row(monkeypatch):
    monkeypatch.setitem(rules.RULES, "toy", Toy)


def cases(schedule):
    settings = {"rule": "toy", "schedule": schedule, "micro_batches": 4, "dtype": torch.float64, **BOOKS}
    r = recipe(**settings)
    yield r, raw(r), None
    r, modules, data = made("resnet", **settings | {"micro_batches": 8, "epochs": 1})
    yield r, data, modules


@pytest.mark.parametrize("schedule", ["sync", "async"])
def test_it_trains_alike_in_every_engine_with_its_books(schedule):
    for r, data, modules in cases(schedule):
        weights, records, trainer = run_serial(r, data, modules=modules)
        with ThreadRun(r, data, modules=modules, transport="loopback") as run:
            wired, wired_records = run.train()
            sent = boundary_bytes(run.coordinator.traffic(), r.network.boundaries)
        assert_same_bits(weights, wired)
        assert len(records) == len(wired_records)
        entries = [record for record in records if isinstance(record, LedgerRecord)]
        assert {entry.boundary for entry in entries} == set(r.network.boundaries)
        assert all(abs(entry.residual) < 1e-12 and abs(entry.transport) < 1e-12 for entry in entries)
        probes = [record for record in records if isinstance(record, ProbeRecord)]
        assert probes
        if schedule == "sync":  # else what comes up to the output was made by weights of the step before
            assert all(probe.layers[-1].cosine == pytest.approx(1) for probe in probes)
        assert any(probe.layers[0].cosine < 0.999 for probe in probes)  # it is not backpropagation
        rows = len(data[0].train) * r.epochs
        for row in sent:
            width = trainer.layers[0].rule.width(row["boundary"])
            assert row["down_payload"] == rows * width * 8
            assert width == r.network.sizes[row["boundary"]]


def test_its_feedback_is_what_autograd_gives_with_its_matrix():
    r = recipe(rule="toy", dtype=torch.float64)
    above = run_serial(r)[2].layers[1]
    (matrix,) = above.ends.origin[1].values()
    delta = torch.randn(3, r.network.sizes[2], dtype=torch.float64)
    assert torch.equal(above.emit(1, delta), delta @ matrix)
    assert set(matrix.abs().unique().tolist()) == {0.05}


def test_the_command_line_knows_it(tmp_path):
    assert re.search(r"\btoy\b.*this test", here("rules", cwd=tmp_path).stdout)
    done = here(
        *("train", "--rule", "toy", "--engine", "serial", "--epochs", "1", "--set", "data.limit=64"),
        *("--set", "ledger.every=1", "--run-dir", "run"),
        cwd=tmp_path,
    )
    assert "toy (aligned), 64-128-128-10" in done.stdout
    here("report", "run", cwd=tmp_path)


def test_benchmarks_and_plans_count_what_it_costs(tmp_path):
    small = ("--hidden", "8,8", "--epochs", "1", "--rules", "bp,toy")
    done = here("bench", "rules", *small, "--inits", "aligned", cwd=tmp_path)
    assert "toy" in done.stdout
    (tmp_path / "spec.yaml").write_text("rule: toy\nmodel: {hidden: [16, 16]}\n")
    (tmp_path / "two.yaml").write_text("nodes:\n  - {count: 2, cores: 4}\n")
    done = here("plan", "spec.yaml", "--cluster", "two.yaml", cwd=tmp_path, check=False)
    assert "toy" in done.stdout, done.stderr


ROW = """
import sys
if any("default_worker" in word or word.startswith("distfa") for word in sys.orig_argv):
    import test_toy_rule
    from distfa.core import rules
    rules.RULES["toy"] = test_toy_rule.Toy
"""


def with_its_row(folder):
    """An environment in which every process of distfa has the row."""
    (folder / "sitecustomize.py").write_text(ROW)
    tests = Path(__file__).parent
    return {"PYTHONPATH": ":".join(map(str, (folder, tests, tests.parent)))}


@pytest.mark.slow
def test_bench_comm_counts_its_bytes_and_steps_in_processes_of_their_own(tmp_path):
    task = ("--hidden", 24, "--batch-size", 32, "--micro-batches", 1, "--lr", "3e-3", "--rules", "toy", "--codecs", "")
    size = ("--target", 60, "--max-steps", 60, "--eval-steps", 20, "--mbit", 0, "--link-steps", 2, "--warmup", 1)
    done = distfa("bench", "comm", *task, *size, cwd=tmp_path, env=with_its_row(tmp_path))
    assert "distfa toy" in done.stdout
    *_, bp, toy = Outcome.load(tmp_path / "bench-comm.json").rows
    assert bp["payload_kb"] == toy["payload_kb"] == 2 * 24 * 32 * 4 / 1000
    assert toy["same_codec"] == 1
    assert toy["message_kb"] is None  # without links nothing goes over a wire


@pytest.mark.slow
def test_on_ray_it_needs_nothing_but_its_row_in_every_process(tmp_path):
    small = ("--rule", "toy", "--epochs", "2", "--set", "data.limit=64", "--set", "ledger.every=1", "--json")
    found = [
        distfa("train", *small, "--engine", engine, "--run-dir", engine, cwd=tmp_path, env=with_its_row(tmp_path))
        for engine in ("ray", "serial")
    ]
    ray, serial = (json.loads(done.stdout.splitlines()[-1]) for done in found)
    assert (ray["train_loss"], ray["test_loss"]) == (serial["train_loss"], serial["test_loss"])
    assert ray["ledger"] == serial["ledger"]
    assert ray["bytes"]["total"]["down_payload"] > 0
