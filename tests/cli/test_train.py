"""``distfa train`` and ``distfa eval`` as a user runs them: what they print, keep and exit with."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from commands import TINY, command, here
from safetensors.torch import load_file
from torch import nn

from distfa.api.trainer import Trainer

pytestmark = pytest.mark.usefixtures("shared_ray")


@pytest.fixture(scope="module")
def ray(tmp_path_factory):
    """(finished process, its result) of a run on Ray that was asked for JSON."""
    where = tmp_path_factory.mktemp("ray")
    done = here("train", *TINY, "--micro-batches", "2", "--run-dir", where / "kept", "--json", cwd=where)
    return done, json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    """(finished command, run directory) of a serial run."""
    where = tmp_path_factory.mktemp("serial")
    return here("train", *TINY, "--engine", "serial", "--run-dir", "kept", cwd=where), where / "kept"


def test_serial_and_ray_print_one_json_object_and_agree(ray, tmp_path):
    done, result = ray
    options = ["--micro-batches", "2", "--engine", "serial", "--run-dir", "kept", "--json"]
    oracle = json.loads(here("train", *TINY, *options, cwd=tmp_path).stdout)
    assert "epoch 2: train loss" in done.stderr
    assert result["layer_sizes"] == [64, 24, 16, 10]
    assert (result["engine"], result["rule"], result["init"]) == ("ray", "dfa", "aligned")
    assert (result["epochs"], result["steps"]) == (2, 14)
    for key in ("train_loss", "test_accuracy"):
        assert result[key] == oracle[key]
    for key in ("samples_per_second", "wall_seconds", "startup_seconds"):
        assert result[key] > 0
    first, second = result["bytes"]["boundaries"]
    assert (first["up_payload"], first["down_payload"]) == (400 * 24 * 4, 400 * 10 * 4)
    assert (second["up_payload"], second["down_payload"]) == (400 * 16 * 4, 400 * 10 * 4)
    assert result["bytes"]["total"]["up_payload"] == first["up_payload"] + second["up_payload"]
    assert first["up_message"] > first["up_payload"]
    weights, expected = (load_file(d / "weights.safetensors") for d in (Path(result["run_dir"]), tmp_path / "kept"))
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[key], expected[key]) for key in expected)


def test_the_table_names_accuracy_speed_bytes_and_the_run_directory(ray, serial):
    done, result = ray
    assert "dfa (aligned), 64-24-16-10, engine ray: test accuracy" in done.stderr  # stdout is for JSON
    assert "samples/s" in done.stderr
    assert "bp would send" in done.stderr
    assert f"run directory: {result['run_dir']}" in done.stderr
    out = serial[0].stdout
    assert "dfa (aligned), 64-24-16-10, engine serial: test accuracy" in out
    assert "run directory: kept" in out


def test_a_run_directory_holds_everything_and_eval_repeats_its_figures(serial, tmp_path):
    _, kept = serial
    names = {re.sub(r"tfevents\..*", "tfevents", path.name) for path in kept.iterdir()}
    assert names == {
        "spec.yaml",
        "run.json",
        "metrics.jsonl",
        "log.jsonl",
        "weights.safetensors",
        "events.out.tfevents",
    }
    about = json.loads((kept / "run.json").read_text())
    result = about["result"]
    assert about["status"] == "finished"
    assert {"torch", "python", "cpus", "processor"} <= set(about["host"])
    records = [json.loads(line) for line in (kept / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if r["kind"] == "step"] == [0, 10, 13]
    assert [r["epoch"] for r in records if r["kind"] == "eval"] == [0, 1]
    evaluated = json.loads(here("eval", kept, "--json", cwd=tmp_path).stdout)
    assert evaluated["accuracy"] == result["test_accuracy"]
    assert evaluated["loss"] == result["test_loss"]
    assert "train: 200 samples" in here("eval", kept, "--split", "train", cwd=tmp_path).stdout
    again = json.loads(here("train", kept / "spec.yaml", "--run-dir", "again", "--json", cwd=tmp_path).stdout)
    assert again["train_loss"] == result["train_loss"]
    assert (again["test_loss"], again["test_accuracy"]) == (result["test_loss"], result["test_accuracy"])


def test_weights_load_straight_into_the_users_own_model(serial):
    model = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 10))
    model.load_state_dict(load_file(serial[1] / "weights.safetensors"))


def test_a_run_that_is_told_no_directory_makes_one(tmp_path):
    out = here("train", *TINY, "--engine", "serial", cwd=tmp_path).stdout
    (made,) = (tmp_path / "runs").iterdir()
    assert f"run directory: runs/{made.name}" in out


def test_flags_go_over_the_spec_file_and_set_over_flags(tmp_path):
    (tmp_path / "spec.yaml").write_text("rule: fa\nepochs: 9\noptimizer: {name: sgd, lr: 1e-2}\nseed: 3\n")
    options = ["--epochs", "1", "--lr", "0.5", "--set", "optimizer.lr=0.25", "--engine", "serial", "--json"]
    result = json.loads(here("train", "spec.yaml", *options, cwd=tmp_path).stdout)
    spec = yaml.safe_load((tmp_path / result["run_dir"] / "spec.yaml").read_text())
    assert (spec["rule"], spec["epochs"], spec["seed"]) == ("fa", 1, 3)
    assert (spec["optimizer"]["name"], spec["optimizer"]["lr"]) == ("sgd", 0.25)


def test_a_full_disk_ends_the_run_and_keeps_whole_records(tmp_path):
    """A limit on file size stands in for a full disk: the write fails in the middle all the same."""
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000)); "
        "from distfa.cli import main; sys.argv = ['distfa', *sys.argv[1:]]; main()"
    )
    args = ["train", "--engine", "serial", "--epochs", "2", "--set", "log_every=1", "--run-dir", "kept"]
    done = subprocess.run(
        [sys.executable, "-c", script, *args], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2, done.stderr
    assert re.search(r"error: cannot write .*kept/metrics.jsonl: File too large; free up disk space", done.stderr)
    assert "Traceback" not in done.stderr
    lines = (tmp_path / "kept" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) > 10
    assert [json.loads(line)["step"] for line in lines if json.loads(line)["kind"] == "step"][:3] == [0, 1, 2]
    assert not list((tmp_path / "kept").glob(".*.part"))
    assert not (tmp_path / "kept" / "weights.safetensors").exists()
    here("train", "--resume", "kept", cwd=tmp_path)  # once there is room again
    assert json.loads((tmp_path / "kept" / "run.json").read_text())["status"] == "finished"


LONG = [
    "train",
    "--epochs",
    "5000",
    "--set",
    "eval_every=5000",
    "--set",
    "checkpoint.every=5",
    "--run-dir",
    "kept",
    "--hidden",
    16,
    "--set",
    "ray.workers=1",
]


def started(tmp_path):
    """A long run on Ray that has made a checkpoint, in a process group of its own."""
    process = subprocess.Popen(
        command(*LONG),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # who runs the tests may ignore it (nohup)
    )
    give_up = time.monotonic() + 90
    while not list((tmp_path / "kept").glob("checkpoints/*/manifest.json")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < give_up
        time.sleep(0.2)
    return process


def _steps(tmp_path):
    metrics = tmp_path / "kept" / "metrics.jsonl"
    return metrics.read_text().count('"kind": "step"') if metrics.exists() else 0


def leftovers(session):
    """Processes of Ray that this driver's session left, by command line."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            text = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            environment = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if f"DISTFA_TEST_SESSION={session}" in environment and int(pid) != os.getpid():
            found.append(text)
    return found


@pytest.mark.parametrize(
    ("how", "code"),
    [
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, -9, marks=pytest.mark.slow),  # the run that was killed goes on in the test below
    ],
)
def test_an_ended_driver_leaves_no_process_behind_and_keeps_how_far_it_came(tmp_path, monkeypatch, how, code):
    """Ctrl-C and a closed terminal reach every process of the driver's group, Ray's too."""
    session = f"{tmp_path.name}-{os.getpid()}"
    monkeypatch.setenv("DISTFA_TEST_SESSION", session)
    process = started(tmp_path)
    monkeypatch.delenv("DISTFA_TEST_SESSION")
    running = "\n".join(leftovers(session))
    assert running.count("ray::WorkerHost") == 1  # so that it would see them
    assert not re.search(r"ray::IDLE|(monitor|dashboard)\.py", running)  # processes that do nothing for a run
    if how in (signal.SIGINT, signal.SIGHUP):
        os.killpg(process.pid, how)
    else:
        process.send_signal(how)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == code
    assert "SIGTERM" not in stderr  # Ray's stack frames
    assert "@ 0x" not in stderr
    if code > 0:
        assert re.search(r"error: interrupted after \d+ steps\n.*the metrics of \d+ steps are in kept", stderr)
        assert json.loads((tmp_path / "kept" / "run.json").read_text())["status"] == "interrupted"
        assert re.search(
            r"its last checkpoint is from step \d+; to resume from there: distfa train --resume kept", stderr
        )
        assert list((tmp_path / "kept" / "checkpoints").glob("*/manifest.json"))
    assert remaining(session, "WorkerHost", within_seconds=15) == []
    # Ray's own agents look for themselves, every so often, whether their raylet still lives
    assert remaining(session, "", within_seconds=120) == []


def remaining(session, name, *, within_seconds):
    """Processes of the session with ``name`` in their command line that outlive the given time."""
    give_up = time.monotonic() + within_seconds
    while (left := [text for text in leftovers(session) if name in text]) and time.monotonic() < give_up:
        time.sleep(0.5)
    return left


def test_a_run_cut_short_says_how_far_it_came(tmp_path):
    options = ["--engine", "serial", "--set", "max_steps=10", "--set", "data.limit=200", "--epochs", "5"]
    assert "10 steps, 2 epochs, " in here("train", *options, cwd=tmp_path).stdout


def test_the_spec_of_a_run_from_python_says_what_it_needs(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 3))
    x, y = np.zeros((8, 4), np.float32), np.arange(8) % 3
    Trainer(model, engine="serial", epochs=1, run_dir=str(tmp_path / "run")).fit((x, y))
    done = here("train", str(tmp_path / "run" / "spec.yaml"), cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "the spec is from a run started in Python with a model object" in done.stderr
    assert "model.name=package.module:function" in done.stderr


def test_a_run_that_was_killed_goes_on_and_ends_as_the_whole(tmp_path):
    """SIGKILL leaves no time for anything: the run is seen to be lost, and goes on from its last checkpoint."""
    options = (
        *TINY,
        "--epochs",
        60,
        "--engine",
        "serial",
        "--set",
        "checkpoint.every=3",
        "--set",
        "checkpoint.seconds=0",
    )
    here("train", *options, "--run-dir", "whole", cwd=tmp_path)
    driver = subprocess.Popen(
        command("train", *options, "--run-dir", "cut"),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        give_up = time.monotonic() + 120
        while not list((tmp_path / "cut").glob("checkpoints/*/manifest.json")):
            assert time.monotonic() < give_up
            time.sleep(0.05)
    finally:
        driver.kill()
        driver.wait()
    assert "lost" in here("watch", "cut", "--once", cwd=tmp_path).stdout
    changed = here("train", "--resume", "cut", "--epochs", 2, cwd=tmp_path, check=False)
    assert changed.returncode == 2
    assert "epochs is 2 now but was 60" in changed.stderr
    both = here("train", "spec.yaml", "--resume", "cut", cwd=tmp_path, check=False)
    assert "continues that run with its own spec in its own directory; leave out the spec spec.yaml" in both.stderr
    nowhere = here("train", "--resume", "nowhere", cwd=tmp_path, check=False)
    assert "nowhere is not a run directory" in nowhere.stderr
    here("train", "--resume", "cut", cwd=tmp_path)
    whole, cut = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[key], cut[key]) for key in whole.keys() | cut.keys())


def test_a_run_that_ends_exploded_shows_its_figures_and_exits_1(tmp_path):
    done = here("train", "--engine", "serial", "--lr", "1e6", "--epochs", "1", "--json", cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout)["exploded"]
    assert "try a lower rate (optimizer.lr 0.001 or less)" in done.stderr
    assert done.stderr.rstrip().splitlines()[-1].startswith("error: the run ended with an exploded loss, ")


@pytest.mark.slow
def test_an_interrupted_run_goes_on_with_fewer_workers_and_ends_as_the_whole(tmp_path):
    options = [*("--hidden", "16,12,8", "--epochs", 150, "--set", "checkpoint.every=5"), *("--set", "data.limit=200")]
    here("train", *options, "--engine", "serial", "--run-dir", "whole", cwd=tmp_path)
    begin = ["train", *options, "--workers", 4, "--run-dir", "kept"]
    for words in (begin, ["train", "--resume", "kept", "--set", "ray.workers=2"]):
        before, give_up = _steps(tmp_path), time.monotonic() + 120
        driver = subprocess.Popen(command(*words), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        while _steps(tmp_path) < before + 20:
            assert driver.poll() is None, driver.stderr.read()
            assert time.monotonic() < give_up
            time.sleep(0.1)
        driver.send_signal(signal.SIGINT)
        assert "interrupted" in driver.communicate(timeout=60)[1]
    here("train", "--resume", "kept", "--set", "ray.workers=1", cwd=tmp_path)
    whole, kept = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "kept"))
    assert all(torch.equal(whole[key], kept[key]) for key in whole.keys() | kept.keys())
