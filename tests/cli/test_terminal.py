"""What people see: at 80 columns nothing wraps, no column says nothing, and help comes at once."""

import io
import re
import subprocess
import sys
import threading
from concurrent.futures import Future

import pytest
from commands import here
from rich.console import Console

from distfa import data
from distfa.api.evaluate import evaluate_run
from distfa.bench.outcome import Outcome
from distfa.cli import bench
from distfa.cli.result import _bytes_table
from distfa.errors import SpecError
from distfa.intake.subject import subject_for
from distfa.run.progress import Phases, ProgressBar, counting
from distfa.run.result import Result
from distfa.run.run import run
from distfa.runtime.phases import LOG, say_phase, say_progress, wait_for
from distfa.settings import parse_change, parse_spec
from distfa.text.lines import fold


@pytest.mark.parametrize("width", [80, 200])
def test_the_bar_fits_its_line_and_shows_the_time_left(width, tmp_path):
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, force_jupyter=False)
    spec = parse_spec({"engine": "serial", "epochs": 12, "run_dir": str(tmp_path / "run"), "data": {"limit": 300}})
    dataset = data.load("digits", limit=300)
    with ProgressBar("starting", console=console) as bar:
        run(spec, subject_for(spec, dataset).network, dataset, observer=bar)
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]", out.getvalue())]
    assert max(map(len, lines)) <= width
    last = next(line for line in reversed(lines) if "steps" in line)
    assert "120/120 steps" in last
    assert "left" in last
    assert ("samples/s" in last) == (width == 200)


def test_an_evaluation_shows_its_samples_and_the_time_left_in_a_terminal_and_nothing_elsewhere(tmp_path):
    spec = parse_spec({"engine": "serial", "epochs": 1, "run_dir": str(tmp_path / "run"), "data": {"limit": 300}})
    dataset = data.load("digits", limit=300)
    run(spec, subject_for(spec, dataset).network, dataset)
    shown = {}
    for terminal in (True, False):
        out = io.StringIO()
        console = Console(file=out, width=80, force_terminal=terminal, force_jupyter=False)
        with counting("evaluating", console=console) as observer:
            found = evaluate_run(tmp_path / "run", observer=observer)
        shown[terminal] = out.getvalue()
    assert shown[False] == ""
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]", shown[True])]
    assert max(map(len, lines)) <= 80
    assert any(f"{found.rows}/{found.rows} samples left" in line for line in lines)


def test_a_start_says_what_it_waits_for():
    said = []
    phases = Phases(lambda what, up: said.append((what, up and str(up))))
    LOG.addHandler(phases)
    LOG.setLevel("INFO")
    say_phase("Ray")
    say_phase("layer processes")
    say_progress(0, 8, 10.0, 120.0)
    say_progress(2, 8, 20.0, 120.0)
    LOG.removeHandler(phases)
    assert said == [
        ("Ray", None),
        ("layer processes", None),
        ("layer processes", "0 of 8 are up after 10 s, at most 110"),
        ("layer processes", "2 of 8 are up after 20 s, about 60 s left, at most 100"),
    ]
    assert re.fullmatch(r" \(Ray \d+\.\d s, layer processes \d+\.\d s\)", phases.summary())


@pytest.mark.parametrize("terminal", [True, False])
def test_a_long_start_shows_how_many_layers_are_up_and_how_long_the_others_take(terminal):
    """A start of 130 s said 'layers', and nothing else until it was over."""
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=terminal, force_jupyter=False)
    with ProgressBar("starting 32 layers on Ray", console=console) as bar:
        say_phase("layers")
        for done, seconds in ((0, 1.0), (3, 12.0), (4, 13.0), (32, 90.0)):
            say_progress(done, 32, seconds, 120.0)
            bar._bar.refresh()
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]", out.getvalue())]
    assert max(map(len, lines)) <= 80
    if terminal:
        assert [n for n in (0, 3, 4, 32) if any("starting: layers" in l and f"{n}/32 layers left" in l for l in lines)]
    else:
        told = "layers: 3 of 32 are up after 12 s, about 116 s left, at most 108"
        assert [line for line in lines if line] == ["starting 32 layers on Ray", told]  # the next one is due 10 s later


def test_answers_are_awaited_until_the_limit_and_those_that_are_late_are_named():
    there, missing = Future(), Future()
    there.set_result(1)
    assert wait_for([there, missing], 0.05) == {missing}
    assert wait_for([there], 60.0) == set()


@pytest.mark.parametrize(("rule", "compared"), [("bp", False), ("dfa", True)])
def test_bp_is_not_compared_with_itself(rule, compared):
    row = {"boundary": 1, "up_payload": 10, "down_payload": 10, "up_message": 11, "down_message": 11, "bp_payload": 20}
    row["inside"] = 0
    result = Result(
        **{"run_dir": "", "engine": "ray", "rule": rule, "init": "aligned", "layer_sizes": (1, 1), "model": "1-1"},
        **{"epochs": 1, "steps": 1, "train_loss": 0.0, "train_accuracy": None, "test_loss": None},
        **{"test_accuracy": None, "samples_per_second": 1.0, "wall_seconds": 1.0, "startup_seconds": 1.0},
        bytes={"boundaries": [row], "total": row},
    )
    headings = [column.header for column in _bytes_table(result).columns]
    assert ("bp would send" in headings) == compared


@pytest.mark.parametrize("typed", ["128x64", "128,64", "[128, 64]", "128 64"])
def test_widths_are_read_as_people_type_them(typed):
    key, value = parse_change(f"model.hidden={typed}")
    assert parse_spec({"model": {"hidden": value}}).model.hidden == (128, 64)
    assert key == "model.hidden"


@pytest.mark.parametrize("typed", ["3,x", "128x", "1,,2", "128xx64"])
def test_widths_that_are_only_half_read_are_refused(typed):
    with pytest.raises(SpecError, match=r"model\.hidden"):
        parse_spec({"model": {"hidden": parse_change(f"model.hidden={typed}")[1]}})


@pytest.mark.parametrize(
    "text",
    [
        "dfa (aligned), 64-128-128-10, engine ray: test accuracy 93.33%, train loss 0.1859, test loss 0.1863",
        "note: 'distfa plan SPEC --calibrate FILE' measures this machine and is long, as a note may well be in a table",
        "ok    python 3.11.7, distfa 0.1.0, torch 2.13.0+cpu, ray 2.60.0, grpcio 1.85.3, protobuf 7.36.2, numpy 2.4.6",
    ],
)
@pytest.mark.parametrize("width", [40, 80])
def test_a_long_line_is_broken_where_nothing_is_torn(text, width):
    lines = fold(text, width).split("\n  ")
    assert " ".join(lines) == text
    assert all(len(line) <= width - 2 * (number > 0) for number, line in enumerate(lines))
    assert len(lines) > 1


def test_a_path_longer_than_a_line_stays_whole():
    assert fold("run directory: " + "/long" * 30 + " it is", 80) == "run directory:\n  " + "/long" * 30 + "\n  it is"


def test_in_a_terminal_of_80_columns_no_line_of_a_command_is_longer(tmp_path, monkeypatch):
    for name, value in {"FORCE_COLOR": "1", "COLUMNS": "80", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "c.yaml").write_text(here("plan", "--example", cwd=tmp_path).stdout)
    trained = ["train", "--engine", "serial", "--epochs", "2", "--set", "data.limit=96", "--run-dir", "run"]
    looked = [["watch", "run", "--once"], ["status", "run"], ["eval", "run"], ["spec"], ["rules"]]
    refused = [["train", "--data", "nothing"], ["train", "--set", "lr=3"]]
    for command in [trained, *looked, *refused, ["plan", "--cluster", "c.yaml", "--peer"], ["bench", "comm", "--help"]]:
        done = here(*command, cwd=tmp_path, check=command not in refused)
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", done.stdout + done.stderr)
        assert [line for line in re.split(r"[\r\n]", plain) if len(line) > 80] == [], command
        assert plain.strip()
        assert "…" not in plain, command


def test_help_and_version_do_not_wait_for_torch():
    script = "import sys, distfa.cli; print([m for m in ('torch', 'ray', 'sklearn', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_digits_do_not_wait_for_scikit_learn():
    script = "import sys; from distfa import data; data.load('digits'); print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_one_epoch_is_one_epoch(tmp_path):
    out = here("train", "--engine", "serial", "--epochs", "1", "--set", "data.limit=64", cwd=tmp_path).stdout
    assert "1 epoch," in out


def test_watch_waits_for_a_run_that_is_about_to_start(tmp_path):
    here("train", "--engine", "serial", "--epochs", "1", "--set", "data.limit=64", "--run-dir", "made", cwd=tmp_path)
    threading.Timer(1.0, (tmp_path / "made").rename, [tmp_path / "run"]).start()
    done = here("watch", "run", cwd=tmp_path)
    assert "waiting up to 60 s for a run in run" in done.stderr
    assert "finished" in done.stdout


def test_a_wide_table_of_a_benchmark_is_told_in_pieces_that_fit(tmp_path, monkeypatch):
    figures = {f"k{i}": f"heading {i}" for i in range(12)}
    rows = [{"name": f"configuration {n}", **dict.fromkeys(figures, 12345.6), "nothing": None} for n in range(3)]
    columns = {"name": "configuration", **figures, "nothing": "what was not measured"}
    outcome = Outcome(name="speed", settings={}, columns=columns, rows=rows, machine={})
    screen = io.StringIO()
    monkeypatch.setattr(
        bench, "Console", lambda: Console(file=screen, force_terminal=True, width=80, color_system=None)
    )
    bench.show(outcome, tmp_path / "o.json", as_json=False)
    lines = [line for line in screen.getvalue().splitlines() if "│" in line or "┃" in line]
    assert max(map(len, lines)) <= 80
    told = " ".join(lines)
    assert all(told.count(f" {i} ┃") == 1 for i in range(12))
    assert told.count("12,346") == 3 * 12
    assert "not measured" not in told
