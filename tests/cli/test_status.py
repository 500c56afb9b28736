"""``distfa status``: who drives a run, where it can go on, where its layers are."""

import json
import sys

import numpy as np
from commands import here
from runs import blobs
from torch import nn

import distfa
from distfa.run.disk.driver import lock

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
    assert "to resume: distfa train --resume run" in lost
    told = json.loads(here("status", "run", "--json", cwd=tmp_path).stdout)
    assert (told["status"], told["checkpoint"], told["attempt"]) == ("lost", 12, 1)
    assert told["sign_of_life_seconds"] < 60
    here("train", "--resume", "run", cwd=tmp_path)
    assert here("status", "run", cwd=tmp_path).stdout.startswith("finished, attempt 2, ")


def test_a_run_from_python_goes_on_there_and_both_commands_say_how(tmp_path):
    """``status`` once recommended --resume, which was refused."""
    x, y = blobs(12, 5, 40)
    where = tmp_path / "run"
    distfa.Trainer(nn.Sequential(nn.Linear(12, 5)), engine="serial", epochs=1, run_dir=str(where)).fit((x, y))
    about = json.loads((where / "run.json").read_text())
    (where / "run.json").write_text(json.dumps(about | {"status": "running"}))
    said = here("status", where, cwd=tmp_path).stdout
    assert f"to resume: Trainer(model, ...).fit(train, test, resume={str(where)!r})" in said
    done = here("train", "--resume", where, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert f"resume it there, with Trainer(model, ...).fit(train, test, resume={str(where)!r})" in done.stderr


def test_a_run_goes_on_and_is_used_from_another_folder_whatever_relative_paths_it_has(tmp_path):
    x, y = blobs(12, 5, 80)
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
    np.savez(tmp_path / "here" / "samples.npz", train_x=x[:60], train_y=y[:60], test_x=x[60:], test_y=y[60:])
    (tmp_path / "here" / "own_net_of_status.py").write_text(
        "from torch import nn\n\n\ndef make():\n    return nn.Sequential(nn.Linear(12, 7), nn.ReLU(), nn.LayerNorm(7), "
        "nn.Linear(7, 5))\n"
    )
    own = ("--data", "npz", "--data-dir", "samples.npz", "--model", "own_net_of_status:make", "--run-dir", "run")
    here("train", *TINY, *own, "--set", "checkpoint.dir=kept", "--epochs", 3, cwd=tmp_path / "here")
    run = tmp_path / "here" / "run"
    about = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(about | {"status": "running"}))
    weights = (run / "weights.safetensors").read_bytes()
    sys.path.remove(str(tmp_path / "here"))
    there = {"cwd": tmp_path / "there"}
    assert "last checkpoint: step 4" in here("status", "../here/run", **there).stdout
    here("train", "--resume", "../here/run", **there)
    assert json.loads((run / "run.json").read_text())["attempt"] == 2
    assert (run / "weights.safetensors").read_bytes() == weights
    assert "20 samples" in here("eval", "../here/run", **there).stdout
    here("export", "../here/run", **there)
    assert not list((tmp_path / "there").iterdir())


def test_a_stall_is_told_as_who_waits_for_whom_with_the_last_error_of_each_layer(tmp_path):
    here("train", *TINY, "--epochs", 1, "--run-dir", "run", cwd=tmp_path)
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    last = {"1": {"attempt": 2, "error": "layer 1, step 40: its process died"}}
    (tmp_path / "run" / "run.json").write_text(
        json.dumps(about | {"status": "running", "attempt": 3, "result": None, "last_errors": last})
    )
    same = {"node": "10.0.0.7", "host": "seven", "busy_seconds": 1.0, "wait_seconds": 2.0}
    layers = [
        {
            **same,
            "layer": 1,
            "pid": 11,
            "step": 50,
            "queue": 0,
            "waiting_for": "error from layer 2",
            "since_seconds": 9.0,
        },
        {**same, "layer": 2, "pid": 12, "step": 49, "queue": 3, "waiting_for": "", "since_seconds": 9.2},
    ]
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write(
            json.dumps({"kind": "traffic", "step": 50, "seconds": 9.0, "boundaries": [], "layers": layers}) + "\n"
        )
    held = lock(tmp_path / "run" / "metrics.jsonl")
    try:
        said = here("status", "run", cwd=tmp_path).stdout
        told = json.loads(here("status", "run", "--json", cwd=tmp_path).stdout)
    finally:
        held.close()
    assert said.startswith("running, attempt 3, ")
    assert "no step finishes: layer 1 has waited 9 s for error from layer 2, layer 2 has been computing for 9 s" in said
    assert "layer 1, last error, in attempt 2: layer 1, step 40: its process died" in said
    assert [row["queue"] for row in told["layers"]] == [0, 3]
    assert [row["last_error"] for row in told["layers"]] == [last["1"], None]


def test_what_is_no_run_is_refused(tmp_path):
    done = here("status", "nothing", cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "nothing is not a run directory" in done.stderr
