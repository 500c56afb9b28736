"""What ``distfa train`` and ``eval`` refuse: one line, an exit code, and nothing left behind."""

import re

import numpy as np
import pytest
from commands import distfa, here

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
    (["--set", "data.name=arrays"], 2, r"in Python with arrays, which are not saved: .*data.name=npz"),
    (["missing.yaml"], 2, r"cannot read the spec missing.yaml: No such file"),
    (["broken.yaml"], 2, r"the spec broken.yaml is not valid YAML"),
    (["--set", "ray.layers={7: {cpus: 1}}"], 2, r"ray.layers names layer 7, but the network has layers 1..3"),
    (["--address", "127.0.0.1:1"], 1, r"no Ray cluster answers at 127.0.0.1:1: .*refused"),
    (["--address", "nowhere"], 1, r"address 'nowhere' is not host:port"),
    (["--run-dir", "full"], 2, r"the run directory full exists and is not empty"),
    (["--run-dir", "/proc/nothing/here"], 2, r"cannot write /proc/nothing"),
    (["--data", "npz", "--data-dir", "label.npz"], 2, r"label.*-1"),
    (["--data", "npz", "--data-dir", "nan.npz"], 2, r"NaN"),
]


@pytest.mark.parametrize(
    ("run", "args", "code", "message"),
    [(distfa, *BAD[0]), *((here, *case) for case in BAD)],  # one as a shell sees it
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_bad_input_is_one_line_an_exit_code_and_nothing_left_behind(tmp_path, run, args, code, message):
    (tmp_path / "broken.yaml").write_text("rule: [")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").touch()
    x, y = np.zeros((6, 4), np.float32), np.arange(6) % 3
    for name, bad_x, bad_y in (("label", x, y - 1), ("nan", x * np.nan, y)):
        np.savez(tmp_path / f"{name}.npz", train_x=bad_x, train_y=bad_y, test_x=x, test_y=y)
    before = set(tmp_path.rglob("*"))
    done = run("train", *args, cwd=tmp_path, check=False)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == code, done.stderr
    assert re.search(message, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert [line for line in lines if line.startswith("error:")] == lines[-1:]
    assert done.stdout == ""
    assert {path for path in tmp_path.rglob("*") if path.name != "runs"} == before


def test_a_disk_with_too_little_room_is_refused_before_anything_starts(tmp_path, small_disk):
    done = here("train", "--engine", "serial", "--run-dir", small_disk / "run", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert re.search(r"the disk of the run directory .* has \d+\.\d kB free, but the run may need", done.stderr)
    assert list(small_disk.iterdir()) == []


def test_eval_says_what_is_missing(tmp_path):
    done = here("eval", "nowhere", cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "nowhere is not a run directory: it has no run.json" in done.stderr
