"""``distfa train`` and ``distfa eval`` as a user runs them: what they print, keep and exit with."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

TINY = ["--epochs", "2", "--hidden", "24,16", "--set", "data.limit=200"]


def command(*args):
    return [sys.executable, "-m", "distfa", *map(str, args)]


def distfa(*args, cwd, check=True):
    """Run the command line; returns the finished process."""
    done = subprocess.run(command(*args), cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    if check:
        assert done.returncode == 0, done.stderr
    return done


def test_serial_and_ray_print_one_json_object_and_agree(tmp_path):
    last = {}
    for engine in ("serial", "ray"):
        done = distfa("train", *TINY, "--engine", engine, "--json", cwd=tmp_path)
        last[engine] = json.loads(done.stdout.splitlines()[-1])
        assert "epoch 2: train loss" in done.stderr
    result = last["ray"]
    assert result["layer_sizes"] == [64, 24, 16, 10]
    assert (result["engine"], result["rule"], result["init"]) == ("ray", "dfa", "aligned")
    assert (result["epochs"], result["steps"]) == (2, 14)
    for key in ("train_loss", "test_accuracy"):
        assert result[key] == last["serial"][key]
    for key in ("samples_per_second", "wall_seconds", "startup_seconds"):
        assert result[key] > 0
    first, second = result["bytes"]["boundaries"]
    assert (first["up_payload"], first["down_payload"]) == (400 * 24 * 4, 400 * 10 * 4)
    assert (second["up_payload"], second["down_payload"]) == (400 * 16 * 4, 400 * 10 * 4)
    assert result["bytes"]["total"]["up_payload"] == first["up_payload"] + second["up_payload"]
    assert first["up_message"] > first["up_payload"]
    weights = {engine: load_file(tmp_path / last[engine]["run_dir"] / "weights.safetensors") for engine in last}
    assert all(torch.equal(weights["ray"][key], weights["serial"][key]) for key in weights["serial"])


def test_a_run_directory_holds_everything_and_eval_repeats_its_figures(tmp_path):
    done = distfa("train", *TINY, "--engine", "serial", "--run-dir", "kept", "--json", cwd=tmp_path)
    result, kept = json.loads(done.stdout), tmp_path / "kept"
    names = {re.sub(r"tfevents\..*", "tfevents", path.name) for path in kept.iterdir()}
    assert names == {"spec.yaml", "run.json", "metrics.jsonl", "weights.safetensors", "events.out.tfevents"}
    about = json.loads((kept / "run.json").read_text())
    assert about["status"] == "finished"
    assert about["result"]["test_accuracy"] == result["test_accuracy"]
    assert {"torch", "python", "cpus", "processor"} <= set(about["host"])
    records = [json.loads(line) for line in (kept / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if r["kind"] == "step"] == [0, 10, 13]
    assert [r["epoch"] for r in records if r["kind"] == "eval"] == [0, 1]
    evaluated = json.loads(distfa("eval", kept, "--json", cwd=tmp_path).stdout)
    assert evaluated["accuracy"] == result["test_accuracy"]
    assert evaluated["loss"] == result["test_loss"]
    assert "train: 200 samples" in distfa("eval", kept, "--split", "train", cwd=tmp_path).stdout
    again = distfa("train", kept / "spec.yaml", "--run-dir", "again", "--json", cwd=tmp_path)
    assert json.loads(again.stdout)["train_loss"] == result["train_loss"]


def test_weights_load_straight_into_the_users_own_model(tmp_path):
    distfa("train", *TINY, "--engine", "serial", "--run-dir", "kept", cwd=tmp_path)
    model = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 10))
    model.load_state_dict(load_file(tmp_path / "kept" / "weights.safetensors"))


def test_the_table_names_accuracy_speed_bytes_and_the_run_directory(tmp_path):
    out = distfa("train", *TINY, "--micro-batches", "2", cwd=tmp_path).stdout
    assert "dfa (aligned), 64-24-16-10, engine ray: test accuracy" in out
    assert "samples/s" in out
    assert "bp would send" in out
    assert re.search(r"run directory: runs/\S+", out)


def test_flags_go_over_the_spec_file_and_set_over_flags(tmp_path):
    (tmp_path / "spec.yaml").write_text("rule: fa\nepochs: 9\noptimizer: {name: sgd, lr: 1e-2}\nseed: 3\n")
    options = ["--epochs", "1", "--lr", "0.5", "--set", "optimizer.lr=0.25", "--engine", "serial", "--json"]
    done = distfa("train", "spec.yaml", *options, cwd=tmp_path)
    result = json.loads(done.stdout)
    spec = yaml.safe_load((tmp_path / result["run_dir"] / "spec.yaml").read_text())
    assert (spec["rule"], spec["epochs"], spec["seed"]) == ("fa", 1, 3)
    assert (spec["optimizer"]["name"], spec["optimizer"]["lr"]) == ("sgd", 0.25)


BAD = [
    (["--rule", "dfaa"], 2, r"rule: 'dfaa' is not one of bp, .*did you mean 'dfa'\?"),
    (["--set", "optimizer.learning_rate=1"], 2, r"unknown key 'optimizer.learning_rate' .*did you mean 'optimizer"),
    (["--set", "batchsize=3"], 2, r"unknown key 'batchsize' in the spec; did you mean 'batch_size'\?"),
    (["--set", "codec.activation=int8"], 2, r"unknown key 'codec.activation'.*'codec.activations'"),
    (["--set", "epochs"], 2, r"--set 'epochs' is not key=value"),
    (["--batch-size", "0"], 2, r"batch_size is 0: input should be greater than or equal to 1"),
    (["--lr", "-1"], 2, r"optimizer.lr is -1.0: input should be greater than 0"),
    (["--hidden", "ten"], 2, r"model.hidden is 'ten': input should be"),
    (["--init", "given"], 2, r"init is 'given' but there is no model"),
    (["--data", "mnst"], 2, r"data.name: 'mnst' is not one of .*did you mean 'mnist'"),
    (["--data", "mnist"], 2, r"mnist.*--data-dir"),
    (["--data", "mnist", "--data-dir", "nowhere"], 2, r"nowhere"),
    (["missing.yaml"], 2, r"cannot read the spec missing.yaml: No such file"),
    (["broken.yaml"], 2, r"the spec broken.yaml is no YAML"),
    (["--set", "ray.layers={7: {cpus: 1}}"], 2, r"ray.layers names layer 7, but the network has layers 1..3"),
    (["--address", "127.0.0.1:1"], 1, r"no Ray cluster answers at 127.0.0.1:1: .*refused"),
    (["--address", "nowhere"], 1, r"address 'nowhere' is not host:port"),
    (["--run-dir", "full"], 2, r"the run directory full exists and is not empty"),
    (["--run-dir", "/proc/nothing/here"], 2, r"cannot write /proc/nothing"),
    (["--data", "npz", "--data-dir", "label.npz"], 2, r"label.*-1"),
    (["--data", "npz", "--data-dir", "nan.npz"], 2, r"NaN"),
]


@pytest.mark.parametrize(("args", "code", "message"), BAD, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_bad_input_is_one_line_an_exit_code_and_nothing_left_behind(tmp_path, args, code, message):
    import numpy as np

    (tmp_path / "broken.yaml").write_text("rule: [")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").touch()
    x, y = np.zeros((6, 4), np.float32), np.arange(6) % 3
    for name, bad_x, bad_y in (("label", x, y - 1), ("nan", x * np.nan, y)):
        np.savez(tmp_path / f"{name}.npz", train_x=bad_x, train_y=bad_y, test_x=x, test_y=y)
    before = set(tmp_path.rglob("*"))
    done = distfa("train", *args, cwd=tmp_path, check=False)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == code, done.stderr
    assert re.search(message, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert [line for line in lines if line.startswith("error:")] == lines[-1:]
    assert done.stdout == ""
    assert {path for path in tmp_path.rglob("*") if path.name != "runs"} == before


def test_a_full_disk_ends_the_run_and_keeps_whole_records(tmp_path):
    """A limit on file size stands in for a full disk: the write fails in the middle all the same."""
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000)); "
        "from distfa.cli import main; sys.argv = ['distfa', *sys.argv[1:]]; main()"
    )
    args = ["train", "--engine", "serial", "--set", "log_every=1", "--run-dir", "kept"]
    done = subprocess.run(
        [sys.executable, "-c", script, *args], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2, done.stderr
    assert re.search(r"error: cannot write kept/metrics.jsonl: File too large; free the disk", done.stderr)
    assert "Traceback" not in done.stderr
    lines = (tmp_path / "kept" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) > 10
    assert [json.loads(line)["step"] for line in lines if json.loads(line)["kind"] == "step"][:3] == [0, 1, 2]
    assert not list((tmp_path / "kept").glob(".*.part"))
    assert not (tmp_path / "kept" / "weights.safetensors").exists()


def test_a_disk_with_too_little_room_is_refused_before_anything_starts(tmp_path, small_disk):
    done = distfa("train", "--engine", "serial", "--run-dir", small_disk / "run", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert re.search(r"the disk of the run directory .* has 0\.\d MiB free and the run may need", done.stderr)
    assert list(small_disk.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB; mounting one needs root."""
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], check=False).returncode:
        pytest.skip("needs the right to mount a small file system (root)")
    yield place
    subprocess.run(["umount", place], check=True)


def test_eval_says_what_is_missing(tmp_path):
    done = distfa("eval", "nowhere", cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "nowhere is no run directory: it has no run.json" in done.stderr


LONG = ["train", "--epochs", "5000", "--set", "eval_every=5000", "--run-dir", "kept"]


def started(tmp_path):
    """A long run on Ray that has begun to train, in a process group of its own."""
    process = subprocess.Popen(
        command(*LONG), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    give_up = time.monotonic() + 90
    while time.monotonic() < give_up and not (steps := _steps(tmp_path)):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.2)
    assert steps
    return process


def _steps(tmp_path):
    metrics = tmp_path / "kept" / "metrics.jsonl"
    return metrics.exists() and metrics.read_text().count('"kind": "step"')


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


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_an_ended_driver_leaves_no_process_behind(tmp_path, monkeypatch, how, code):
    session = f"{tmp_path.name}-{os.getpid()}"
    monkeypatch.setenv("DISTFA_TEST_SESSION", session)
    process = started(tmp_path)
    monkeypatch.delenv("DISTFA_TEST_SESSION")
    process.send_signal(how)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == code
    if code == 130:
        assert re.search(r"error: interrupted after \d+ steps\n.*the metrics of \d+ steps are kept in kept", stderr)
        assert json.loads((tmp_path / "kept" / "run.json").read_text())["status"] == "interrupted"
    assert remaining(session, "LayerActor", within_seconds=15) == []
    # Ray's own agents look for themselves, every so often, whether their raylet still lives
    assert remaining(session, "", within_seconds=120) == []


def remaining(session, name, *, within_seconds):
    """Processes of the session with ``name`` in their command line that outlive the given time."""
    give_up = time.monotonic() + within_seconds
    while (left := [text for text in leftovers(session) if name in text]) and time.monotonic() < give_up:
        time.sleep(0.5)
    return left
