"""Runs in MLflow and in Weights & Biases, each in a folder, without a server or a network."""

import json

import pytest
from runs import blobs
from torch import manual_seed, nn

import distfa
from distfa.errors import UsageError

X, LABELS = blobs(6, 4, 80)


class End(distfa.Callback):
    """Ctrl-C after the second epoch."""

    def on_epoch(self, at):
        if at.epoch == 2:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def cut_short_and_resumed(logger, folder):
    """A run of three epochs that ends early and goes on, with a new logger as in a new process; its history."""

    def fit(callbacks, **how):
        manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
        settings = {"engine": "serial", "epochs": 3, "run_dir": str(folder / "run"), "checkpoint__seconds": 0}
        trainer = distfa.Trainer(model, callbacks=callbacks, checkpoint__every=3, **settings)
        trainer.fit((X[:60], LABELS[:60]), (X[60:], LABELS[60:]), **how)
        return trainer.history

    with pytest.raises(KeyboardInterrupt):
        fit([logger(), End()])
    return fit([logger()], resume=folder / "run")


def test_mlflow_has_one_run_with_the_settings_and_the_figures_of_every_epoch(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs the extra mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    place = f"file:{tmp_path / 'mlruns'}"
    history = cut_short_and_resumed(lambda: distfa.MLFlowLogger("blobs", tracking_uri=place), tmp_path)
    client = mlflow.MlflowClient(place)
    (run,) = client.search_runs([client.get_experiment_by_name("blobs").experiment_id])
    assert run.info.status == "FINISHED"
    assert (run.data.params["rule"], run.data.params["optimizer.lr"]) == ("dfa", "0.001")
    logged = {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, "test_loss")}
    assert logged == dict(zip(history["step"], history["test_loss"], strict=True))


def test_wandb_offline_has_the_figures_of_every_epoch_in_one_run(tmp_path):
    pytest.importorskip("wandb", reason="needs the extra wandb")
    history = cut_short_and_resumed(lambda: distfa.WandbLogger("blobs", mode="offline", dir=str(tmp_path)), tmp_path)
    files = list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert len({file.stem for file in files}) == 1  # named by the run
    written = b"".join(file.read_bytes() for file in files)
    for figure in [*history["test_loss"], *history["train_loss"]]:
        assert json.dumps(figure).encode() in written


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(UsageError, match=r"WandbLogger needs wandb: pip install 'distfa\[wandb\]'"):
        distfa.WandbLogger()
