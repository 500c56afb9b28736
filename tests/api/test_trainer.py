"""The Python API: train, load back, start from given weights; and what it refuses."""

import numpy as np
import pytest
import torch
from runs import blobs
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import distfa
from distfa.errors import DataError, ModelError, RunDirError, SpecError


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 8), nn.Tanh(), nn.Linear(8, 5))


@pytest.fixture
def data():
    x, y = blobs(12, 5, 120)
    return (x[:100].astype(np.float32), y[:100]), (x[100:].astype(np.float32), y[100:])


@pytest.fixture
def settings(tmp_path):
    return {"engine": "serial", "epochs": 10, "batch_size": 16, "run_dir": str(tmp_path / "run")}


def test_fit_trains_the_models_own_weights(data, settings):
    net = model()
    result = distfa.Trainer(net, rule="fa", optimizer__lr=0.01, **settings).fit(*data)
    x, y = data[1]
    accuracy = (net(torch.from_numpy(x)).argmax(1).numpy() == y).mean()
    assert result.test_accuracy == pytest.approx(accuracy)
    assert accuracy > 0.9
    assert result.layer_sizes == (12, 20, 8, 5)


def test_a_loader_that_shuffles_without_a_generator_is_read_like_its_arrays(data, settings, tmp_path):
    (x, y), test = data
    loader = DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), batch_size=16, shuffle=True)
    a, b = model(), model()
    distfa.Trainer(a, **settings).fit(loader, test)
    distfa.Trainer(b, **{**settings, "run_dir": str(tmp_path / "other")}).fit((x, y), test)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_given_weights_are_where_training_starts(data, settings):
    net = model()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    tiny = {**settings, "epochs": 1, "optimizer": {"name": "sgd", "lr": 1e-6}}
    distfa.Trainer(net, init="given", **tiny).fit(*data)
    for key, value in net.state_dict().items():
        assert torch.allclose(value, before[key], atol=1e-4)
        assert not torch.equal(value, before[key])


def test_float_targets_train_by_mse_and_have_no_accuracy(settings):
    x = np.random.default_rng(0).standard_normal((60, 12))
    y = x[:, :5] * 0.5
    result = distfa.Trainer(
        model(), loss="mse", dtype="float64", **{**settings, "epochs": 100, "optimizer__lr": 0.01}
    ).fit((x, y), (x, y))
    assert result.test_accuracy is None
    assert result.test_loss < 0.1


def test_evaluate_repeats_the_result_on_arrays_given_again(data, settings):
    result = distfa.Trainer(model(), **settings).fit(*data)
    found = distfa.evaluate(settings["run_dir"], arrays=data[1])
    assert found.accuracy == result.test_accuracy
    assert found.loss == pytest.approx(result.test_loss, rel=1e-5)  # float32, perhaps on more threads
    with pytest.raises(DataError, match="trained on arrays from Python, which are not saved"):
        distfa.evaluate(settings["run_dir"])


def test_what_cannot_work_is_refused_before_anything_is_written(data, settings, tmp_path):
    train, _ = data
    with pytest.raises(ModelError, match="the model is a function, not a torch"):
        distfa.Trainer(model)
    with pytest.raises(SpecError, match=r"unknown key 'optimiser' .*did you mean 'optimizer'"):
        distfa.Trainer(model(), optimiser__lr=1)
    with pytest.raises(DataError, match="has 11 features per sample, but the first layer takes 12"):
        distfa.Trainer(model(), **settings).fit((train[0][:, :11], train[1]))
    with pytest.raises(DataError, match=r"labels up to 9, but the last layer has 5 outputs"):
        distfa.Trainer(model(), **settings).fit((train[0], train[1] + 5))
    with pytest.raises(SpecError, match="'cross_entropy' but the targets are floats"):
        distfa.Trainer(model(), **settings).fit((train[0], train[0][:, :5]))
    with pytest.raises(DataError, match="NaN"):
        distfa.Trainer(model(), **settings).fit((train[0] * np.nan, train[1]))
    with pytest.raises(RunDirError, match="not a run directory"):
        distfa.evaluate(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_test_set_has_no_test_figures(data, settings):
    result = distfa.Trainer(model(), **settings).fit(data[0])
    assert result.test_accuracy is None
    assert result.test_loss is None
