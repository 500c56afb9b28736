"""``distfa bench`` end to end: a table on stdout, all measurements in a file."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from distfa.bench.outcome import Outcome
from distfa.cli import app
from distfa.cli.bench import show
from distfa.errors import BenchError, UsageError


def distfa(*args, cwd):
    command = [sys.executable, "-m", "distfa", *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=280, check=False)


TINY = ("--batch-size", 8, "--steps", 6, "--warmup", 2, "--rounds", 1)


@pytest.mark.slow
def test_speed_races_distfa_against_torch(tmp_path):
    done = distfa(
        *("bench", "speed", "--rules", "dfa", "--schedules", "sync,async", "--processes", 2, "--micro-batches", 2),
        *("--workers", "2,1", "--fold", "--hidden", 16, *TINY),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    outcome = Outcome.load(tmp_path / "bench-speed.json")
    names = [row["configuration"] for row in outcome.rows]
    assert names[:4] == [
        f"distfa dfa {how}, {workers}" for how in ("sync", "async") for workers in ("2 workers", "1 worker")
    ]
    assert {"torch one process, 1 thread", "torch gpipe, 2 processes", "torch 1f1b, 2 processes"} <= set(names)
    assert all(row["samples_per_second"] > 0 for row in outcome.rows)
    assert all(0 <= row["others"] <= row["busy"] <= 1 for row in outcome.rows)
    assert [row["of_bound"] is not None for row in outcome.rows] == [row["kind"] == "distfa" for row in outcome.rows]
    single = [row for row in outcome.rows if row["kind"] == "single"][-1]
    for row in outcome.rows:
        assert row["to_single"] == pytest.approx(row["samples_per_second"] / single["samples_per_second"])
    assert max(row["to_pipeline"] for row in outcome.rows if row["kind"] == "pipeline") == 1
    assert [shot["round"] for shot in outcome.raw] == [1] * len(outcome.rows)
    assert "failed" not in done.stderr
    for row in outcome.rows:
        assert row["configuration"] in done.stdout
    assert "compute bound, samples/s: dfa" in done.stdout


@pytest.mark.slow
def test_scale_counts_what_layers_send_and_hold(tmp_path):
    done = distfa(
        "bench", "scale", "--layers", "2,3", "--micro-batches", 2, "--width", 16, *TINY, "--json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    outcome = Outcome.load(tmp_path / "bench-scale.json")
    assert json.loads(done.stdout)["rows"] == outcome.rows
    for row, boundaries in zip(outcome.rows, (1, 2), strict=True):
        assert row["layers"] == boundaries + 1
        assert row["messages"] == boundaries * 2 * 2
        assert row["payload_bytes"] == boundaries * 8 * 4 * (16 + 10)
        assert row["step_ms"] > 0
        assert row["memory_mb"] > row["arrays_mb"] > 0


def test_a_table_is_printed_though_its_file_cannot_be_written_any_more(tmp_path, capsys):
    """The disk was full after hours of training, and with the file went the table."""
    outcome = Outcome(name="rules", settings={}, columns={"rule": "rule"}, rows=[{"rule": "dfa"}], machine={})
    (tmp_path / "file").touch()
    with pytest.raises(BenchError, match="cannot write"):
        show(outcome, tmp_path / "file" / "mine.json", as_json=False)
    assert "dfa" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("speed", "--micro-batches", "two"), "--micro-batches is 'two'; it takes whole numbers above 0"),
        (("speed", "--processes", "5"), "a pipeline of 5 processes cannot be made of 4 layers"),
        (("speed", "--rules", "kpp"), "did you mean 'kp'"),
        (("speed", "--rules", ""), "no rule is named"),
        (("rules", "--inits", "aligned,Random"), "--inits: 'Random' is not one of .*; did you mean 'random'"),
        (("rules", "--rules", "bp,DFA"), "did you mean 'dfa'"),
        (("codecs", "--codecs", "INT8"), "did you mean 'int8'"),
        (("faults", "--schedules", "sync,Async"), "--schedules: 'Async' is not one of .*did you mean 'async'"),
        (("tls", "--schedules", "sync,asinc"), "--schedules: 'asinc' is not one of .*did you mean 'async'"),
        (("checkpoints", "--schedules", ""), "--schedules is ''; it takes sync, async"),
        (("scale", "--layers", ""), "--layers is ''; it takes whole numbers above 0"),
        (("scale", "--schedule", "async"), "schedule is 'async' but a step has one micro-batch"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_starts(args, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        CliRunner().invoke(app, ["bench", *args], catch_exceptions=False)
    assert list(tmp_path.iterdir()) == []
