"""The table of codecs: bytes are those of the wire, and what loses no bit loses no accuracy."""

import json
import math
from pathlib import Path

import plotly.graph_objects as go
import pytest
from runs import ThreadRun
from typer.testing import CliRunner

from distfa.bench.codecs import measure
from distfa.bench.options import CodecsOptions
from distfa.bench.outcome import Outcome
from distfa.bench.page import bench_page, outcome_figures
from distfa.cli import app
from distfa.errors import BenchError, SpecError
from distfa.measuring.task import Task
from distfa.runtime.coordinator import boundary_bytes
from distfa.settings import parse_spec

TINY = {"model": {"hidden": [12, 9]}, "epochs": 2, "data": {"name": "digits", "limit": 200}, "ledger": {"every": 0}}
TINY |= {"probe": {"every": 0}, "batch_size": 32}  # the last batch of an epoch has 8 rows
PAIRS = ("int8/bf16", "int4/int4sr", "packed/fp32")
CLASSES = 10


def tiny_options(**changes):
    task = {"hidden": (12, 9), "epochs": 2, "batch_size": 32, "changes": {"data.limit": 200}}
    return CodecsOptions(**{**task, **changes})


@pytest.fixture(scope="module")
def tiny():
    """(outcome, rows by rule and codecs) of two rules and three pairs."""
    outcome = measure(tiny_options(rules=("bp", "dfa"), codecs=PAIRS), print)
    return outcome, {(row["rule"], row["codecs"]): row for row in outcome.rows}


def test_bytes_of_fixed_codecs_are_those_of_the_widths(tiny):
    _, rows = tiny
    assert rows["bp", "fp32/fp32"]["bytes_per_sample"] == 4 * (12 + 9) * 2
    assert rows["dfa", "fp32/fp32"]["bytes_per_sample"] == 4 * (12 + 9 + 2 * CLASSES)
    assert rows["bp", "int8/bf16"]["bytes_per_sample"] == (4 + 12) + (4 + 9) + 2 * (12 + 9)
    assert rows["dfa", "int8/bf16"]["bytes_per_sample"] == (4 + 12) + (4 + 9) + 2 * 2 * CLASSES
    assert rows["bp", "int4/int4sr"]["bytes_per_sample"] == 2 * ((4 + 6) + (4 + 5))
    assert rows["dfa", "int4/int4sr"]["bytes_per_sample"] == (4 + 6) + (4 + 5) + 2 * (4 + 5)
    for row in rows.values():
        assert row["fewer"] == pytest.approx(rows["bp", "fp32/fp32"]["bytes_per_sample"] / row["bytes_per_sample"])


def test_packed_sends_fewer_bytes_and_learns_the_same(tiny):
    outcome, rows = tiny
    assert len(rows) == len(outcome.raw) == 2 * (1 + len(PAIRS))  # fp32/fp32 is measured without being asked for
    for rule in ("bp", "dfa"):
        packed, exact = rows[rule, "packed/fp32"], rows[rule, "fp32/fp32"]
        assert packed["test_accuracy"] == exact["test_accuracy"] > 100 / CLASSES
        assert packed["change"] == exact["change"] == 0
        assert packed["bytes_per_sample"] < exact["bytes_per_sample"]
        lossy = rows[rule, "int4/int4sr"]
        assert lossy["change"] == pytest.approx(lossy["test_accuracy"] - exact["test_accuracy"])


def test_layers_that_talk_send_the_bytes_that_were_counted(tiny):
    _, rows = tiny
    task = Task.of(parse_spec({**TINY, "rule": "dfa"}))
    data = task.inputs, task.targets
    with ThreadRun(task.recipe, data, transport="loopback", activations="packed", errors="fp32") as run:
        run.train()
        table = boundary_bytes(run.coordinator.traffic(), task.recipe.network.boundaries)
    sent = sum(row["up_payload"] + row["down_payload"] for row in table)
    assert sent / (2 * 200) == rows["dfa", "packed/fp32"]["bytes_per_sample"]


def test_times_are_of_both_codecs_and_of_the_bytes_they_save(tiny):
    _, rows = tiny
    saved = {codecs: row["saved_ms"] for (rule, codecs), row in rows.items() if rule == "bp"}
    assert saved["fp32/fp32"] == 0
    assert saved["int8/bf16"] == pytest.approx(8e-6 * 32 * (2 * 4 * 12 - (4 + 12) - 2 * 12))
    assert saved["int8/bf16"] < saved["int4/int4sr"]
    assert 0 < rows["bp", "fp32/fp32"]["codec_ms"] < rows["bp", "int4/int4sr"]["codec_ms"]
    assert rows["dfa", "int8/bf16"]["codec_ms"] == rows["bp", "int8/bf16"]["codec_ms"]


def test_more_seeds_give_the_mean_and_the_deviation():
    outcome = measure(tiny_options(rules=("dfa",), codecs=("int4",), seeds=2), print)
    assert [run["seed"] for run in outcome.raw] == [0, 1, 0, 1]
    exact, lossy = outcome.rows
    a, b = (run["test_accuracy"] for run in outcome.raw[2:])
    assert lossy["test_accuracy"] == pytest.approx((a + b) / 2)
    assert lossy["spread"] == pytest.approx(abs(a - b) / math.sqrt(2))
    assert lossy["change"] == pytest.approx(lossy["test_accuracy"] - exact["test_accuracy"])
    assert "spread" in outcome.columns


def test_a_run_that_diverges_is_a_row_without_accuracy_and_a_note():
    outcome = measure(tiny_options(optimizer="sgd", lr=1e12, rules=("bp",), codecs=()), print)
    assert set(outcome.rows[0]) == {"rule", "codecs", "codec_ms", "saved_ms"}
    assert any(note.startswith("bp fp32/fp32, seed 0, diverged: layer") for note in outcome.notes)
    assert outcome_figures(outcome)[0].traces == []


def test_the_figure_has_a_line_per_rule_sorted_by_bytes(tiny):
    outcome, rows = tiny
    (figure,) = outcome_figures(outcome)
    go.Figure(data=figure.traces, layout=figure.layout)
    assert [trace["name"] for trace in figure.traces] == ["bp", "dfa"]
    assert len({trace["line"]["color"] for trace in figure.traces}) == 2
    assert figure.layout["xaxis"]["type"] == "log"
    for trace in figure.traces:
        assert trace["text"] == ["int4/int4sr", "int8/bf16", "packed/fp32", "fp32/fp32"]
        assert trace["x"] == [rows[trace["name"], codecs]["bytes_per_sample"] for codecs in trace["text"]]
        assert trace["y"] == [rows[trace["name"], codecs]["test_accuracy"] for codecs in trace["text"]]
    assert "reduction vs bp fp32, x" in bench_page(outcome, Path("bench-codecs.json")).html()


@pytest.mark.parametrize(
    ("rule", "pair", "message"),
    [
        ("dfaa", "fp32/fp32", "did you mean 'dfa'"),
        ("dfa", "int9/fp32", "codec.activations: 'int9' is not one of .*did you mean 'int8'"),
        ("dfa", "int8/int", "codec.errors: 'int' is not one of lossless, auto, fp32"),
    ],
)
def test_unknown_rules_and_codecs_are_refused(rule, pair, message):
    with pytest.raises(SpecError, match=message):
        measure(tiny_options(rules=(rule,), codecs=(pair,)), print)


def test_a_network_that_sends_nothing_is_refused():
    with pytest.raises(BenchError, match="0 hidden layers and 200 test samples"):
        measure(tiny_options(hidden=(), rules=("bp",), codecs=PAIRS), print)


def test_the_command_writes_what_it_prints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--hidden", "8", "--epochs", "1", "--batch-size", "256", "--lr-schedule", "cosine", "--seeds", "2"]
    ask = ["--rules", "fa", "--codecs", "int8,packed/fp32", "--json"]
    done = CliRunner().invoke(app, ["bench", "codecs", *options, *ask], catch_exceptions=False)
    outcome = Outcome.load(tmp_path / "bench-codecs.json")
    assert json.loads(done.stdout)["rows"] == outcome.rows
    assert [row["codecs"] for row in outcome.rows] == ["fp32/fp32", "int8/int8", "packed/fp32"]
    assert outcome.settings["optimizer"]["schedule"] == "cosine"
    assert done.stderr.count("codecs: fa ") == 2 * 3
