"""What ``status`` and ``watch`` read of a run: the last records, in little memory, and only what is new."""

import json
import tracemalloc

import pytest
from commands import here

from distfa.errors import RunDirError
from distfa.report.columns import Columns
from distfa.report.latest import Latest
from distfa.report.records import read_run

STEP = {"kind": "step", "epoch": 0, "loss": 0.5, "accuracy": 0.25, "rows": 32, "seconds": 1.0}
ENTRY = ("incoming", "change", "discretisation", "optimizer", "nonhomogeneity", "staleness", "transport")
TOLD = dict.fromkeys((*ENTRY, "residual", "tolerance"), 0.0)
SIZES = {"boundaries": [], "layers": []}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    where = tmp_path_factory.mktemp("runs")
    size = ("--hidden", "12,8", "--epochs", 3, "--set", "data.limit=200", "--set", "ledger.every=2")
    here("train", "--engine", "serial", *size, "--set", "probe.every=3", "--run-dir", "run", cwd=where)
    return where / "run"


@pytest.fixture
def run(tmp_path):
    """A run that is under way, without records yet."""
    (tmp_path / "run.json").write_text(json.dumps({"status": "running", "attempt": 1}))
    (tmp_path / "metrics.jsonl").touch()
    return tmp_path


def write(run, *records, end="\n"):
    with (run / "metrics.jsonl").open("a") as file:
        file.write("\n".join(json.dumps(record) for record in records) + end)


def test_they_are_the_last_of_all_records(finished):
    whole, latest = read_run(finished), Latest(finished)
    assert latest.last("step") == whole.steps[-1] | {"kind": "step"}
    assert latest.last("eval") == whole.evals[-1] | {"kind": "eval"}
    assert latest.last("probe") == whole.probes[-1]
    assert latest.findings() == whole.findings
    assert latest.run.sizes == whole.sizes
    for boundary, rows in whole.boundaries.items():
        entries, last = latest.entries(boundary)
        assert entries.count == len(rows) > 5
        assert entries.broken == 0
        assert {key: last[key] for key in rows[-1]} == rows[-1]
    assert latest.entries(9) is None


def test_what_is_new_is_read_and_a_line_that_is_still_written_is_left(run):
    latest = Latest(run)
    assert latest.last("step") is None
    write(run, STEP | {"step": 1}, {"kind": "traffic", "step": 1, "seconds": 1.0, **SIZES})
    latest.look()
    assert latest.last("step")["step"] == 1
    write(run, STEP | {"step": 2}, {"kind": "ledger", "step": 2, "boundary": 1, **TOLD, "holds": False})
    write(run, STEP | {"step": 3}, end="")
    latest.look()
    assert latest.last("step")["step"] == 2
    assert latest.entries(1)[0].broken == 1
    write(run, end="\n")
    write(run, {"kind": "traffic", "step": 4, "seconds": 2.0, **SIZES})
    write(run, {"kind": "traffic", "step": 5, "seconds": 3.0, **SIZES})
    latest.look()
    assert latest.last("step")["step"] == 3
    assert [row["step"] for row in latest.traffic()] == [4, 5]


@pytest.mark.parametrize("longer", [False, True])
def test_a_run_that_went_back_to_a_checkpoint_is_read_again(run, longer):
    write(run, *(STEP | {"step": step} for step in range(5)))
    write(run, {"kind": "finding", "finding": "dead", "step": 4, "text": "a"})
    latest = Latest(run)
    assert len(latest.findings()) == 1
    (run / "run.json").write_text(json.dumps({"status": "running", "attempt": 2}))
    (run / "metrics.jsonl").write_text("")
    write(run, *(STEP | {"step": step, "loss": 1.0} for step in range(20 if longer else 2)))
    latest.look()
    assert latest.last("step") == STEP | {"step": 19 if longer else 1, "loss": 1.0}
    assert latest.findings() == []


def test_a_damaged_record_is_named(run):
    write(run, STEP | {"step": 1, "loss": "much"})
    with pytest.raises(RunDirError, match="metrics.jsonl, the last 'step': 'loss' of the step record is 'much'"):
        Latest(run).last("step")


def test_memory_does_not_grow_with_the_records(run):
    """A million records took 35 s and 1.5 GB, for ``status`` and once a second for ``watch``."""
    write(run, *(STEP | {"step": step} for step in range(5_000)))
    tracemalloc.start()
    try:
        Latest(run)
        assert tracemalloc.get_traced_memory()[1] < 1e6
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        whole = read_run(run)
        assert (tracemalloc.get_traced_memory()[1] - before) / len(whole.steps) < 100  # bytes; 500 as dictionaries
    finally:
        tracemalloc.stop()


def test_columns_give_back_what_was_put_in():
    records = [
        {"step": 1, "loss": 0.5, "accuracy": None},
        {"step": 2, "loss": float("inf"), "holds": True},
        {"step": 3, "loss": 2, "text": "left out", "list": [1]},
    ]
    columns = Columns()
    for record in records:
        columns.append(record)
    kept = [{key: value for key, value in record.items() if key not in ("text", "list")} for record in records]
    assert list(columns) == kept
    assert columns[-1] == kept[-1]
    assert columns[1:] == kept[1:]
    assert [type(value) for value in columns.of("loss")] == [float, float, int]
    assert list(columns.of("holds")) == [None, True, None]
    assert list(columns.points("holds", "loss")) == [(2, True, float("inf"))]
    assert list(columns.of("absent")) == [None] * 3
