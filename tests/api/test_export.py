"""A run directory is all one needs: raw samples in, the run's own answers out."""

import json
import subprocess
import sys

import numpy as np
import pytest
import safetensors
import torch
from commands import here
from full_disk import full_at
from torch import nn

import distfa
from distfa import data
from distfa.api.export import FORMATS, format_of
from distfa.errors import RunDirError, SpecError, UsageError

USE = """
import json, sys, numpy as np, torch
extra = {"inputs.json": ""}
module = torch.export.load(sys.argv[1], extra_files=extra).module()
x = torch.from_numpy(np.load(sys.argv[2]))
np.save(sys.argv[3], module(x).detach().numpy())
assert "distfa" not in sys.modules
assert json.loads(extra["inputs.json"])["outputs"] == 10
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    done = here("train", "--engine", "serial", "--epochs", "5", "--run-dir", "läuft", cwd=home)
    assert done.returncode == 0
    return home / "läuft"


def test_raw_pixels_give_the_runs_own_accuracy_without_distfa(run, tmp_path):
    done = here("export", run, cwd=tmp_path)
    assert done.stdout.strip() == str(run / "model.pt2")
    digits = data.load("digits")
    raw = digits.test_x.reshape(-1, *digits.shape)
    np.save(tmp_path / "x.npy", raw)
    subprocess.run(
        [sys.executable, "-c", USE, run / "model.pt2", tmp_path / "x.npy", tmp_path / "y.npy"],
        check=True,
        cwd=tmp_path,
    )
    accuracy = (np.load(tmp_path / "y.npy").argmax(1) == digits.test_y).mean()
    assert accuracy == pytest.approx(json.loads((run / "run.json").read_text())["result"]["test_accuracy"])


def test_what_turns_raw_samples_into_inputs_is_with_the_weights_and_in_run_json(run):
    about, digits = json.loads((run / "run.json").read_text("utf-8")), data.load("digits")
    assert about["inputs"] == digits.reading.as_dict()
    assert about["data_digest"] == digits.digest
    assert about["host"]["code"].startswith("code ")
    assert about["host"]["command"][1:3] == ["train", "--engine"]
    assert about["pid"]
    with safetensors.safe_open(run / "weights.safetensors", "pt") as file:
        assert json.loads(file.metadata()["distfa"]) == digits.reading.as_dict()


def test_a_model_from_python_is_given_again(tmp_path):
    digits, net = (
        data.load("digits", limit=64),
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)),
    )
    path = str(tmp_path / "run")
    distfa.Trainer(net, engine="serial", epochs=1, run_dir=path).fit(digits)
    with pytest.raises(SpecError, match=r"distfa.export\(run_dir, model=model\)"):
        distfa.export(path)
    file = distfa.export(path, model=net)
    raw = torch.from_numpy(digits.test_x.reshape(-1, *digits.shape))
    own = net.eval()(((raw.float().flatten(1) - float(digits.mean[0])) / float(digits.std[0])).reshape(-1, 1, 8, 8))
    assert torch.allclose(torch.export.load(file).module()(raw), own, atol=1e-5)
    with pytest.raises(UsageError, match="format 'pickle' is not one of torch, onnx"):
        distfa.export(path, format="pickle", model=net)


@pytest.mark.parametrize(
    ("file", "format", "made"),
    [
        (None, None, "torch"),
        (None, "onnx", "onnx"),
        ("m.onnx", None, "onnx"),  # was a torch archive under this name
        ("m.ONNX", None, "onnx"),
        ("m.onnx", "onnx", "onnx"),
        ("m.pt2", None, "torch"),
        ("m", None, "torch"),
        ("m.bin", "onnx", "onnx"),
        ("m.onnx", "torch", "has the extension of 'onnx'; leave the format out, or use the extension .pt2"),
        ("m.pt2", "onnx", "has the extension of 'torch'; leave the format out, or use the extension .onnx"),
        (
            "m.tflite",
            None,
            r"'m.tflite' does not determine a format; use the extension .pt2 or .onnx, or give a format",
        ),
    ],
)
def test_the_name_of_the_file_says_the_format_too(file, format, made):
    if made in FORMATS:
        assert format_of(format, file) == made
    else:
        with pytest.raises(UsageError, match=made):
            format_of(format, file)


def test_the_command_and_python_have_one_word_for_the_format(run, tmp_path):
    done = here("export", run, "--out", "m.onnx", "--format", "torch", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "'m.onnx' has the extension of 'onnx'" in done.stderr
    with pytest.raises(UsageError, match="has the extension of 'onnx'"):
        distfa.export(run, "m.onnx", format="torch")


def test_a_full_disk_is_one_error_and_leaves_no_file(run, tmp_path):
    """torch ended the process: terminate called after throwing an instance of c10::Error."""
    file = tmp_path / "model.pt2"
    file.write_bytes(b"before")
    with full_at(8192), pytest.raises(RunDirError, match=f"cannot write {file}: File too large; free up disk space"):
        distfa.export(run, file)
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == [("model.pt2", b"before")]


@pytest.mark.slow
def test_onnx_gives_the_same_file_for_others(run, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    distfa.export(run, tmp_path / "model.onnx")
    from onnx.reference import ReferenceEvaluator

    digits = data.load("digits")
    model = onnx.load(tmp_path / "model.onnx")
    assert {"distfa": digits.reading.as_dict()} == {
        entry.key: json.loads(entry.value) for entry in model.metadata_props
    }
    session = ReferenceEvaluator(model)
    (name,) = session.input_names
    (found,) = session.run(None, {name: digits.test_x[:50].reshape(-1, *digits.shape)})
    assert (found.argmax(1) == digits.test_y[:50]).mean() > 0.8
