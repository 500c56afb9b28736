"""``distfa watch`` goes on through recoveries, unreadable moments and runs elsewhere, and says who waits for whom."""

import io
import json

import pytest
from rich.console import Console

from distfa.cli import watch
from distfa.errors import RunDirError
from distfa.report.latest import Latest

HERE, GONE = watch.platform.node(), {"attempt": 2, "failed_at": 9, "step": 5, "cause": "layer 2 died"}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run on another machine whose lock is not seen here, so that it reads as lost."""
    monkeypatch.setattr(watch, "_REFRESH_SECONDS", 0.0)
    (tmp_path / "metrics.jsonl").touch()
    keep(tmp_path)
    return tmp_path


def keep(run, **about):
    (run / "run.json").write_text(json.dumps({"status": "running", "attempt": 1, "node": f"not {HERE}", **about}))


def traffic(run, *waited, seconds, waiting_for="", since=0.0):
    layers = [
        {"layer": number, "worker": number, "wait_seconds": wait, "since_seconds": since, "waiting_for": waiting_for}
        for number, wait in enumerate(waited, start=1)
    ]
    row = {"kind": "traffic", "step": 1, "seconds": seconds, "boundaries": [], "layers": layers}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def shown(picture):
    console = Console(file=io.StringIO(), width=200)
    console.print(picture)
    return console.file.getvalue()


def test_a_run_elsewhere_whose_lock_is_not_seen_is_watched_until_it_says_that_it_ended(run):
    pictures = watch._pictures(Latest(run))
    for seconds in (1.0, 2.0):
        traffic(run, 0.1, 0.2, seconds=seconds, waiting_for="error from layer 2 across boundary 1, step 3")
        said = shown(next(pictures))
        assert "waiting: layer 1 for error from layer 2, layer 2 for error from layer 2" in said
        assert f"lost, or driven on not {HERE}, whose lock is not seen here" in said
    keep(run, status="finished")
    assert "finished" in shown(next(pictures))
    assert not list(pictures)


def test_a_run_of_this_machine_that_nobody_drives_is_over_and_one_elsewhere_once_it_is_silent(run):
    assert not watch._is_over(Latest(run).run, silent_seconds=59.0)
    assert watch._is_over(Latest(run).run, silent_seconds=61.0)
    keep(run, node=HERE)
    assert watch._is_over(Latest(run).run, silent_seconds=0.0)


def test_a_recovery_is_shown_and_counters_that_begin_anew_give_no_rates(run):
    for seconds in (1.0, 2.0):
        traffic(run, 3.0, 4.0, seconds=seconds)
    latest = Latest(run)
    assert watch._rates(latest.traffic())[0] == {1: 0.0, 2: 0.0}
    pictures = watch._pictures(latest)
    keep(run, attempt=2, recoveries=[GONE])
    traffic(run, 0.0, 0.1, seconds=3.0)
    said = shown(next(pictures))
    assert "lost, or driven on" in said
    assert ", attempt 2" in said
    assert "attempt 2: from step 9 back to 5: layer 2 died" in said
    assert watch._rates(latest.traffic()) == ({}, {})


def test_a_folder_that_cannot_be_read_for_a_moment_does_not_end_it(run, monkeypatch):
    latest, seen = Latest(run), []
    look = latest.look

    def torn():
        seen.append(1)
        if len(seen) < 3:
            raise RunDirError("stale file handle")
        look()

    monkeypatch.setattr(latest, "look", torn)
    next(watch._pictures(latest))
    assert len(seen) == 3
    monkeypatch.setattr(watch, "_UNREADABLE_SECONDS", -1.0)
    seen.clear()
    with pytest.raises(RunDirError, match="stale file handle"):
        next(watch._pictures(latest))
