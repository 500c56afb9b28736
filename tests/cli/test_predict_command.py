"""``distfa predict``: new samples in a file are read as the run read its own."""

import json

import numpy as np
import pytest
from commands import here
from runs import blobs
from torch import nn

import distfa
from distfa import data


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    here("train", "--engine", "serial", "--epochs", "3", "--run-dir", "run", cwd=home)
    return home


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.mark.parametrize("kind", ["raw", "normalised", "npz", "csv"])
def test_raw_or_normalised_samples_get_the_classes_that_the_run_found(kind, home, digits):
    file = home / {"npz": "x.npz", "csv": "x.csv"}.get(kind, f"{kind}.npy")
    if kind == "npz":
        np.savez(file, x=digits.test_x.reshape(-1, 8, 8), other=np.zeros(3))
    elif kind == "csv":
        np.savetxt(file, digits.test_x, "%d", delimiter=",", header=",".join(f"p{i}" for i in range(64)), comments="")
    else:
        np.save(file, digits.test_x if kind == "raw" else (digits.test_x - digits.mean) / digits.std)
    found = np.array(here("predict", "run", file.name, cwd=home).stdout.split(), dtype=int)
    result = json.loads((home / "run" / "run.json").read_text())["result"]
    assert (found == digits.test_y).mean() == pytest.approx(result["test_accuracy"])


def test_outputs_go_to_a_file_and_answers_are_json(home, digits):
    np.save(home / "few.npy", digits.test_x[:5])
    said = json.loads(here("predict", "run", "few.npy", "--json", "--out", "to/y.npy", cwd=home).stdout)
    outputs = np.load(home / "to" / "y.npy")
    assert outputs.shape == (5, 10)
    assert said == {"rows": 5, "answers": outputs.argmax(1).tolist()}


def test_columns_are_found_by_name_and_classes_have_theirs(tmp_path):
    pandas = pytest.importorskip("pandas")
    x, y = blobs(3, 2, 60)
    names = np.array(["ant", "bee"])
    table = pandas.DataFrame(x, columns=["a", "b", "c"]).assign(animal=names[y])
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    trainer = distfa.Trainer(net, engine="serial", epochs=5, run_dir=str(tmp_path / "run"))
    trainer.fit(table, target="animal")
    table[["c", "animal", "a", "b"]].to_csv(tmp_path / "new.csv", index=False)
    said = here("predict", "run", "new.csv", cwd=tmp_path).stdout.split()
    assert said == names[trainer.predict(table).argmax(1).numpy()].tolist()
    table[["c", "a"]].to_csv(tmp_path / "less.csv", index=False)
    assert "has no column 'b'" in here("predict", "run", "less.csv", cwd=tmp_path, check=False).stderr


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.txt", "1", "samples are read from .npy, .npz or .csv files, not from .txt"),
        ("x.npy", "1", "x.npy: cannot be read"),
        ("no.csv", None, "no.csv: cannot be read"),
        ("x.csv", "a,b\n1\n", "x.csv: cannot be read"),
        ("empty.csv", "", "empty.csv: cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(name, content, says, home):
    if content is not None:
        (home / name).write_text(content)
    done = here("predict", "run", name, cwd=home, check=False)
    assert says in " ".join(done.stderr.split())
    assert done.returncode == 2
