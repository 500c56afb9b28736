"""``distfa status``: who drives a run, where it can go on, where its layers are."""

import json

from commands import here

TINY = ("--engine", "serial", "--set", "data.limit=200", "--set", "checkpoint.every=4", "--set", "checkpoint.seconds=0")


def test_a_finished_run_and_one_that_nobody_drives_any_more(tmp_path):
    here("train", *TINY, "--epochs", 2, "--run-dir", "run", cwd=tmp_path)
    said = here("status", "run", cwd=tmp_path).stdout
    assert said.startswith("finished, attempt 1, step ")
    assert "last checkpoint: step 12" in said
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["attempt"] == 1
    (tmp_path / "run" / "run.json").write_text(json.dumps(about | {"status": "running"}))
    lost = here("status", "run", cwd=tmp_path).stdout
    assert lost.startswith("lost, attempt 1, ")
    assert f"driven by pid {about['pid']} on {about['node']}" in lost
    assert "to go on: distfa train --resume run" in lost
    told = json.loads(here("status", "run", "--json", cwd=tmp_path).stdout)
    assert (told["status"], told["checkpoint"], told["attempt"]) == ("lost", 12, 1)
    assert told["sign_of_life_seconds"] < 60
    here("train", "--resume", "run", cwd=tmp_path)
    assert here("status", "run", cwd=tmp_path).stdout.startswith("finished, attempt 2, ")


def test_what_is_no_run_is_refused(tmp_path):
    done = here("status", "nothing", cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "nothing is no run directory" in done.stderr
