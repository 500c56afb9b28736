"""A run directory belongs to one run, whoever else wants it, and what is read from it is what was written."""

import errno
import fcntl
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import here

from distfa.api.evaluate import evaluate_run
from distfa.core.base.activations import Activation
from distfa.core.base.model import plain_network
from distfa.errors import RunDirError
from distfa.report.records import read_run
from distfa.run.disk.driver import driver, is_driven
from distfa.run.disk.run_dir import RunDir, read_about
from distfa.run.disk.weights import read_weights
from distfa.text import strict_json

NETWORK = plain_network((4, 3, 2), activation=Activation(name="relu"))


def create(path, **about):
    return RunDir.create(path, name="dfa-digits", spec_text="rule: dfa\n", network=NETWORK, about=about)


def worker(who, home, start, path, codes):
    """One process of a pool: makes runs; every second one fails early and leaves nothing."""
    os.chdir(home)
    start.wait(60)
    try:
        for number in range(12 if path is None else 1):
            run = create(path, who=who, n=number)
            run.log({"kind": "step", "step": number, "loss": 1.0})
            if number % 2:
                run.fail("failed", "early", keep=False)
            else:
                run.finish({}, {"who": who})
        codes.put("done")
    except RunDirError as exc:
        codes.put(str(exc))


def pool(home, path=None, *, size=4):
    """What processes say that begin at one moment."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["distfa.run.disk.run_dir"])
    start, codes = context.Barrier(size), context.Queue()
    processes = [context.Process(target=worker, args=(who, home, start, path, codes)) for who in range(size)]
    for process in processes:
        process.start()
    said = [codes.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    return sorted(said)


def test_processes_that_start_runs_in_the_same_second_each_have_their_own(tmp_path):
    """A pool of two once lost 4 of 36 runs: two took one name, and one that failed removed the other's files."""
    assert pool(tmp_path) == ["done"] * 4
    found = [read_about(path) for path in (tmp_path / "runs").iterdir()]
    assert sorted((about["who"], about["n"]) for about in found) == [
        (who, n) for who in range(4) for n in range(0, 12, 2)
    ]
    for path in (tmp_path / "runs").iterdir():
        about = read_about(path)
        assert (about["status"], about["result"]) == ("finished", {"who": about["who"]})
        assert [row["step"] for row in read_run(path).steps] == [about["n"]]


def test_of_processes_that_want_one_directory_one_gets_it(tmp_path):
    first, *others = pool(tmp_path, "wanted")
    assert first == "done"
    assert len(others) == 3
    assert all(text.startswith("the run directory wanted exists and is not empty, or another") for text in others)
    assert read_about(tmp_path / "wanted")["status"] == "finished"


def test_a_run_that_fails_early_removes_its_own_files_and_no_others(tmp_path):
    place = tmp_path / "place"
    run = create(place)
    (place / "notes.txt").write_text("mine")
    run.fail("failed", "early", keep=False)
    assert [path.name for path in place.iterdir()] == ["notes.txt"]


def test_an_empty_directory_of_the_users_is_used_and_stays_when_the_run_fails_early(tmp_path):
    create(tmp_path).fail("failed", "early", keep=False)
    assert list(tmp_path.iterdir()) == []
    assert tmp_path.is_dir()


def test_a_directory_with_anything_in_it_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunDirError, match="exists and is not empty"):
        create(tmp_path)
    with pytest.raises(RunDirError, match="exists and is not empty"):
        create(tmp_path / "thesis.tex")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_place_below_a_file_is_refused_with_the_reason(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunDirError, match="cannot write .*file.*Not a directory|cannot write .*File exists"):
        create(tmp_path / "file" / "run")


def test_tilde_is_the_home_directory_for_whoever_writes_and_reads(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    create("~/runs/mine").finish({}, {})
    assert (tmp_path / "runs" / "mine" / "run.json").exists()
    assert read_run(Path("~/runs/mine")).about["status"] == "finished"
    with pytest.raises(RunDirError, match="cannot find the home directory in '~nobody-of-that-name/x'"):
        create("~nobody-of-that-name/x")
    with pytest.raises(RunDirError, match="is not a run directory"):
        evaluate_run("~/elsewhere")


def test_figures_that_are_not_finite_are_valid_json_and_come_back_as_they_were(tmp_path):
    figures = {"a": math.nan, "b": math.inf, "c": [-math.inf, 1.5], "d": {"e": None, "f": "text"}, "g": (1, math.nan)}
    text = strict_json.dumps(figures)
    parsed = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert parsed["b"] == "Infinity"
    back = strict_json.restore_numbers(parsed)
    assert math.isnan(back["a"])
    assert (back["b"], back["c"], back["d"]) == (math.inf, [-math.inf, 1.5], {"e": None, "f": "text"})
    run = create(tmp_path / "run")
    run.log({"kind": "step", "step": 0, "epoch": 0, "loss": math.nan})
    run.events.add(0, {"train/loss": math.nan, "train/accuracy": 0.5})
    run.finish({}, {"train_loss": math.inf})
    assert math.isnan(read_run(tmp_path / "run").steps[0]["loss"])
    assert read_about(tmp_path / "run")["result"]["train_loss"] == math.inf


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # a locale without letters beyond ASCII


def distfa(*arguments, cwd, **environment):
    command = [sys.executable, "-m", "distfa", *arguments]
    return subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, timeout=120)


@pytest.mark.parametrize(("place", "locale"), [("Läufe/Versuch-α", {}), ("runs/try", ASCII)], ids=["utf-8", "ascii"])
def test_names_and_texts_outside_ascii_work_and_files_are_utf8_whatever_the_locale(tmp_path, place, locale):
    (tmp_path / "größe.yaml").write_text("# größer\nepochs: 1\nengine: serial\ndata: {limit: 60}\n", encoding="utf-8")
    train = ("train", "größe.yaml", "--run-dir", place)
    for command in (train, ("report", place)):
        done = distfa(*command, cwd=tmp_path, **locale) if locale else here(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert read_about(tmp_path / place)["status"] == "finished"
    assert set(read_weights(tmp_path / place))
    assert evaluate_run(tmp_path / place).rows == 60
    assert "Loss and accuracy" in (tmp_path / place / "report.html").read_text(encoding="utf-8")


def test_a_name_that_the_locale_cannot_write_is_refused_with_the_way_out(tmp_path):
    (tmp_path / "spec.yaml").write_text("run_dir: Läufe\nengine: serial\n", encoding="utf-8")
    done = distfa("train", "spec.yaml", cwd=tmp_path, **ASCII)
    assert done.returncode == 2
    assert b"has characters that this process cannot write" in done.stderr
    assert b"set PYTHONUTF8=1" in done.stderr
    assert not (tmp_path / "Läufe").exists()


def test_without_locks_a_process_is_looked_for_where_it_can_be(tmp_path, monkeypatch):
    """Some network file systems have none; a run that goes on there must not be called lost."""

    def no_locks(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    file = tmp_path / "metrics.jsonl"
    file.touch()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert is_driven(file, driver())
    assert not is_driven(file, driver() | {"pid": gone.pid})
    assert is_driven(file, {"pid": gone.pid, "node": "another-machine"})
    assert not is_driven(tmp_path / "nothing", driver())


def test_a_process_that_is_forked_from_the_driver_does_not_keep_the_lock(tmp_path):
    """After the driver was killed, the run was 'driven by pid', which was dead, for as long as a child lived."""
    run = create(tmp_path / "run")
    ready, begun = os.pipe()
    child = os.fork()
    if not child:
        os.write(begun, b".")
        time.sleep(120)
        os._exit(0)
    try:
        os.read(ready, 1)
        assert is_driven(run.metrics, driver())
        run._let_go()  # as the end of the driver does
        assert read_about(tmp_path / "run")["status"] == "lost"
        assert RunDir.reopen(tmp_path / "run").about["attempt"] == 2
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_lock_that_outlived_its_driver_is_told_as_that(tmp_path):
    create(tmp_path / "run")._let_go()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps(about | {"pid": gone.pid}))
    with (
        (tmp_path / "run" / "metrics.jsonl").open("rb") as file,
        pytest.raises(RunDirError, match=rf"left behind by its driver \(pid {gone.pid}, which has ended\).*fuser"),
    ):
        fcntl.flock(file, fcntl.LOCK_EX)
        RunDir.reopen(tmp_path / "run")
