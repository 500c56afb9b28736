"""A run directory is all one needs: raw samples in, the run's own answers out."""

import json
import subprocess
import sys

import numpy as np
import pytest
import safetensors
import torch
from commands import here
from torch import nn

import distfa
from distfa import data
from distfa.errors import SpecError, UsageError

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
    assert about["inputs"] == digits.inputs()
    assert about["data_digest"] == digits.digest
    assert about["host"]["code"].startswith("code ")
    assert about["host"]["command"][1:3] == ["train", "--engine"]
    assert about["pid"]
    with safetensors.safe_open(run / "weights.safetensors", "pt") as file:
        assert json.loads(file.metadata()["distfa"]) == digits.inputs()


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
    with pytest.raises(UsageError, match="the format is 'pickle'; it is one of torch, onnx"):
        distfa.export(path, form="pickle", model=net)


@pytest.mark.slow
def test_onnx_gives_the_same_file_for_others(run, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    distfa.export(run, tmp_path / "model.onnx", form="onnx")
    from onnx.reference import ReferenceEvaluator

    digits = data.load("digits")
    session = ReferenceEvaluator(onnx.load(tmp_path / "model.onnx"))
    (name,) = session.input_names
    (found,) = session.run(None, {name: digits.test_x[:50].reshape(-1, *digits.shape)})
    assert (found.argmax(1) == digits.test_y[:50]).mean() > 0.8
