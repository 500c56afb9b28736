"""A name of a data set carries what it needs: from the trainer to the loader, and from the run to whoever reads it."""

import numpy as np
import pytest
import yaml
from runs import blobs
from torch import nn

import distfa
from distfa.errors import DataError


@pytest.fixture
def archive(tmp_path):
    x, y = blobs(12, 5, 120)
    file = tmp_path / "blobs.npz"
    np.savez(file, train_x=x[:100], train_y=y[:100], test_x=x[100:], test_y=y[100:])
    return file


def trainer(tmp_path, **settings):
    net = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 5))
    return distfa.Trainer(net, engine="serial", epochs=1, run_dir=tmp_path / "run", **settings)


def test_a_hub_name_is_passed_on(tmp_path):
    """``fit("hub")`` dropped ``data.hub`` and asked for it."""
    with pytest.raises(DataError, match=r"distfa\[hub\]|hub data set 'no/such'"):
        trainer(tmp_path, data__hub="no/such").fit("hub")


@pytest.mark.parametrize("how", ["by name", "loaded before"])
def test_the_run_knows_where_its_data_are(tmp_path, archive, how):
    if how == "by name":
        result = trainer(tmp_path, data__dir=archive, data__limit=70).fit("npz")
    else:
        result = trainer(tmp_path).fit(distfa.data.load("npz", directory=archive, limit=70))
    kept = yaml.safe_load((tmp_path / "run" / "spec.yaml").read_text())["data"]
    assert (kept["name"], kept["dir"], kept["limit"]) == ("npz", str(archive), 70)
    assert distfa.evaluate(tmp_path / "run", split="train").rows == 70
    assert distfa.evaluate(tmp_path / "run").accuracy == pytest.approx(result.test_accuracy)


def test_arrays_are_no_data_set_of_a_name(tmp_path):
    x, y = blobs(12, 5, 20)
    made = distfa.data.from_arrays((x, y), name="digits")  # whatever they are called
    trainer(tmp_path).fit(made)
    assert yaml.safe_load((tmp_path / "run" / "spec.yaml").read_text())["data"]["name"] == "arrays"
