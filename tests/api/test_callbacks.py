"""A run that is cut short and goes on ends as if nothing had happened for its callbacks, too; and a run that keeps its
best weights ends with them, whoever asks.
"""

import math
import shutil

import numpy as np
import pytest
import torch
from losses_of_layers import lose_a_layer_once
from runs import blobs
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import distfa
from distfa.api.callbacks import is_better
from distfa.errors import CheckpointError, DataError, SpecError
from distfa.report.facts import result_facts
from distfa.report.findings import sentences
from distfa.report.records import read_run
from distfa.run import engines
from distfa.run.disk.run_dir import read_about


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.BatchNorm1d(20), nn.Linear(20, 5))


@pytest.fixture(scope="module")
def samples():
    x, y = blobs(12, 5, 120)
    x, y = x.astype(np.float32), np.where(np.arange(120) % 4 == 0, 0, y)  # some labels are wrong: it overfits
    return (x[:100], y[:100]), (x[100:], y[100:])


def settings(where, **changes):
    return {
        "engine": "serial",
        "epochs": 30,
        "batch_size": 16,  # 7 steps an epoch
        "optimizer": {"lr": 0.02},
        "checkpoint": {"every": 5, "seconds": 0},
        "run_dir": str(where),
        **changes,
    }


class Seen(distfa.Callback):
    """Remembers what it saw; can end the run, as a signal would."""

    def __init__(self, ends_at=-1):
        self.ends_at, self.steps, self.losses, self.mean = ends_at, [], {}, torch.zeros(3)

    def on_step(self, at):
        if at.step == self.ends_at:
            raise KeyboardInterrupt
        self.steps.append(at.step)
        self.mean += at.figures["train_loss"]

    def on_epoch(self, at):
        self.losses[at.epoch] = np.float64(at.figures["test_loss"] or 0)

    def state_dict(self):
        return {"steps": self.steps, "losses": self.losses, "mean": self.mean}

    def load_state_dict(self, state):
        self.steps, self.losses, self.mean = state["steps"], state["losses"], state["mean"]


def callbacks(ends_at=-1):
    return [distfa.EarlyStopping(patience=4), distfa.BestWeights(monitor="train_loss"), Seen(ends_at)]


def known(trainer):
    """All that an undisturbed run and one that went on must agree on."""
    stopping, best, seen = trainer._callbacks
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in trainer.history]
    own = (seen.steps, seen.losses, seen.mean.tolist())
    figures = {k: v for k, v in trainer.result.as_dict().items() if k in ("steps", "epochs", "stopped", "best")}
    losses = (trainer.result.train_loss, trainer.result.test_loss, trainer.result.test_accuracy)
    return rows, own, (stopping.best, stopping.step, stopping._since), (best.best, best.step), figures, losses


def same_weights(a, b):
    assert all(torch.equal(a[key], b[key]) for key in b)


def same(trainer, whole):
    assert known(trainer) == known(whole)
    same_weights(trainer.model.state_dict(), whole.model.state_dict())
    for mine, theirs in zip(trainer._callbacks[:2], whole._callbacks[:2], strict=True):
        same_weights(mine.weights, theirs.weights)


@pytest.mark.parametrize(("ends_at", "eval_every"), [(3, 1), (25, 2), (43, 1)])
def test_a_fit_that_is_resumed_ends_as_the_whole_for_its_callbacks_too(ends_at, eval_every, samples, tmp_path):
    whole = distfa.Trainer(model(), callbacks=callbacks(), **settings(tmp_path / "whole", eval_every=eval_every))
    whole.fit(*samples)
    assert whole.result.stopped
    assert 0 < whole.result.best["step"] < whole.result.steps
    how = settings(tmp_path / "cut", eval_every=eval_every)
    with pytest.raises(KeyboardInterrupt):
        distfa.Trainer(model(), callbacks=callbacks(ends_at), **how).fit(*samples)
    trainer = distfa.Trainer(model(), callbacks=callbacks(), **how)
    trainer.fit(*samples, resume=tmp_path / "cut")
    same(trainer, whole)
    same_weights(load_file(tmp_path / "cut" / "weights.safetensors"), whole.model.state_dict())


@pytest.mark.parametrize("at", [3, 25])
def test_after_a_recovery_callbacks_know_what_they_knew_at_the_checkpoint(at, samples, tmp_path, monkeypatch):
    """Without that a callback saw some steps twice, and a run stopped where none would have stopped."""
    whole = distfa.Trainer(model(), callbacks=callbacks(), **settings(tmp_path / "whole"))
    whole.fit(*samples)
    lose_a_layer_once(monkeypatch, at=at)
    trainer = distfa.Trainer(model(), callbacks=callbacks(), **settings(tmp_path / "run"))
    trainer.fit(*samples)
    assert len(trainer.result.recoveries) == 1
    same(trainer, whole)


class StopsAt(distfa.Callback):
    def on_step(self, at):
        if at.step == 11:
            at.stop("enough")


def test_a_stop_that_a_lost_layer_took_back_is_not_made_early(samples, tmp_path, monkeypatch):
    """The run once stopped at the first checkpoint that came again."""
    how = {"checkpoint": {"every": 20, "seconds": 0, "at_evaluation": False}}
    whole = distfa.Trainer(model(), callbacks=StopsAt(), **settings(tmp_path / "whole", **how))
    assert whole.fit(*samples).steps == 14
    lose_a_layer_once(monkeypatch, at=12)
    again = distfa.Trainer(model(), callbacks=StopsAt(), **settings(tmp_path / "again", **how))
    assert again.fit(*samples).steps == 14
    same_weights(again.model.state_dict(), whole.model.state_dict())


def test_at_a_stop_a_layer_gives_its_state_once(samples, tmp_path, monkeypatch):
    """On Ray a run that stopped at a cut that was also written once failed: the state of layer 1 is gone."""
    plain, given = engines.SerialEngine.snapshots, []

    def once(self, step):
        assert step not in given
        given.append(step)
        return plain(self, step)

    monkeypatch.setattr(engines.SerialEngine, "snapshots", once)
    trainer = distfa.Trainer(model(), callbacks=StopsAt(), **settings(tmp_path / "run"))
    assert trainer.fit(*samples).stopped
    assert given == [5, 7, 10, 14]


def test_a_run_that_was_killed_after_its_last_cut_ends_there(samples, tmp_path, monkeypatch):
    from distfa.run.disk.run_dir import RunDir

    how = settings(tmp_path / "run")
    whole = distfa.Trainer(model(), callbacks=StopsAt(), **settings(tmp_path / "whole"))
    whole.fit(*samples)

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(RunDir, "finish", killed)
        distfa.Trainer(model(), callbacks=StopsAt(), **how).fit(*samples)
    again = distfa.Trainer(model(), callbacks=StopsAt(), **how)
    assert again.fit(*samples, resume=tmp_path / "run").steps == whole.result.steps == 14
    assert again.result.stopped == "enough"
    same_weights(again.model.state_dict(), whole.model.state_dict())


def test_early_stopping_counts_evaluations_where_not_every_epoch_has_one(samples, tmp_path):
    """With eval_every: 2 it once ended the run after epoch 1: 'no test data were given'."""
    stopping = distfa.EarlyStopping(patience=2)
    trainer = distfa.Trainer(model(), callbacks=stopping, **settings(tmp_path / "run", eval_every=3))
    result = trainer.fit(*samples)
    losses = [loss for loss in trainer.history["test_loss"] if loss is not None]
    assert len(losses) == result.epochs // 3
    assert result.stopped.endswith("for 2 evaluations")
    assert stopping.best == min(losses) == losses[-3]
    assert result.best["epoch"] == result.epochs - 6


@pytest.mark.parametrize("tests", [True, False])
def test_the_best_training_loss_has_its_weights_in_whatever_epoch_it_comes(tests, samples, tmp_path):
    best = distfa.BestWeights(monitor="train_loss")
    trainer = distfa.Trainer(
        model(), callbacks=best, **settings(tmp_path / "run", eval_every=4, epochs=7, optimizer={"lr": 0.3})
    )
    trainer.fit(samples[0], samples[1] if tests else None)
    losses = trainer.history["train_loss"]
    assert (best.best, best.step) == (min(losses), 7 * (losses.index(min(losses)) + 1))
    assert best.weights is not None


def test_what_is_no_number_is_never_the_best_and_always_beaten():
    """A first NaN was once never beaten."""
    assert is_better(1.0, math.nan, greater=False)
    assert is_better(1.0, None, greater=False)
    assert not is_better(math.nan, None, greater=False)
    assert not is_better(math.nan, 1.0, greater=True)
    assert not is_better(math.nan, math.nan, greater=False)


@pytest.mark.parametrize(
    ("monitor", "y", "tests", "says"),
    [
        ("test_loss", "labels", False, "it has no test data; monitor another: monitor='train_loss'"),
        ("val_acc", "labels", False, "it has no test data; monitor another: monitor='train_accuracy'"),
        ("val_acc", "numbers", True, "quantities, which have no accuracy; monitor another: monitor='test_loss'"),
    ],
)
def test_a_figure_that_the_run_will_not_have_is_refused_before_the_start(monitor, y, tests, says, samples, tmp_path):
    (x, labels), test = samples
    loss = "cross_entropy" if y == "labels" else "mse"
    data = (x, labels if y == "labels" else x[:, :5])
    trainer = distfa.Trainer(
        model(), callbacks=distfa.EarlyStopping(monitor=monitor), loss=loss, **settings(tmp_path / "run")
    )
    with pytest.raises(SpecError, match=says):
        trainer.fit(data, None if not tests else (test[0], test[0][:, :5]))
    assert not (tmp_path / "run").exists()


class Opens(distfa.Callback):
    def __init__(self, path):
        self.file = path.open("w")

    def state_dict(self):
        return {"files": [self.file]}


def test_a_state_that_no_checkpoint_can_hold_is_refused_before_the_first_step(samples, tmp_path):
    how = settings(tmp_path / "run")
    with pytest.raises(SpecError, match="callback Opens cannot be saved .*: it holds a TextIOWrapper; use"):
        distfa.Trainer(model(), callbacks=Opens(tmp_path / "log"), **how).fit(*samples)
    assert not (tmp_path / "run").exists()


def test_a_run_that_keeps_its_best_weights_ends_with_them_for_everyone(samples, tmp_path):
    """The model had the best weights, and the run directory and the result those of the last step."""
    trainer = distfa.Trainer(model(), callbacks=distfa.BestWeights(), **settings(tmp_path / "run", epochs=12))
    result = trainer.fit(*samples)
    test_x, test_y = samples[1]
    best = min(trainer.history["test_loss"])
    row = trainer.history.rows[trainer.history["test_loss"].index(best)]
    assert row is not trainer.history.rows[-1]
    assert {name: getattr(result, name) for name in result.best["last"]} == {n: row[n] for n in result.best["last"]}
    assert result.best["last"]["test_loss"] == trainer.history["test_loss"][-1]
    assert result.best["step"] == row["step"]
    assert f"weights: the best by test_loss ({best:.4f}), from step {row['step']}\n" in str(result)
    run = read_run(tmp_path / "run")
    assert f" of the test set right after step {row['step']} (the best of 84 by test_loss), with" in sentences(run)[0]
    assert result_facts(run)["weights"] == f"the best by test_loss ({best:.4f}), from step {row['step']}"
    assert read_about(tmp_path / "run")["result"]["test_loss"] == best
    kept, last = (load_file(tmp_path / "run" / f"{name}.safetensors") for name in ("weights", "last"))
    same_weights(kept, trainer.model.state_dict())
    assert not torch.equal(kept["0.weight"], last["0.weight"])
    loaded = distfa.Trainer(model(), engine="serial").load(tmp_path / "run")
    assert loaded.evaluate((test_x, test_y)).loss == pytest.approx(best, rel=1e-4)
    file = distfa.export(tmp_path / "run", model=model())
    assert torch.equal(
        torch.export.load(file).module()(torch.from_numpy(test_x)).argmax(1), trainer.predict(test_x).argmax(1)
    )
    loaded.load(tmp_path / "run" / "last.safetensors")
    assert loaded.evaluate((test_x, test_y)).loss == pytest.approx(trainer.history["test_loss"][-1], rel=1e-4)


def test_a_second_fit_that_is_interrupted_goes_on_with_its_own_seed(samples, tmp_path):
    """It was refused: seed is 0 now and was 1."""

    def fitted(name, ends_at):
        trainer = distfa.Trainer(model(), callbacks=callbacks(), **settings(tmp_path / name, epochs=3))
        trainer.fit(*samples)
        trainer._callbacks = callbacks(ends_at)
        return trainer

    whole = fitted("whole", -1)
    whole.fit(*samples)
    assert read_about(tmp_path / "whole-2")["seed"] == 1
    begun = fitted("cut", 11)
    with pytest.raises(KeyboardInterrupt):
        begun.fit(*samples)
    anew = distfa.Trainer(model(), callbacks=callbacks(), **settings(tmp_path / "cut", epochs=3))
    for trainer in (begun, anew):
        trainer._callbacks = callbacks()
    shutil.copytree(tmp_path / "cut-2", tmp_path / "other")
    begun.fit(*samples, resume=tmp_path / "cut-2")
    anew.fit(*samples, resume=tmp_path / "other")
    for trainer in (begun, anew):
        same(trainer, whole)
    for trainer in (whole, begun):
        trainer._callbacks = callbacks()
        trainer.fit(*samples)
    assert [read_about(tmp_path / name)["seed"] for name in ("whole-3", "cut-3")] == [2, 2]
    same(begun, whole)


def test_a_fit_without_a_checkpoint_yet_begins_anew_only_from_the_weights_it_began_with(samples, tmp_path):
    how = settings(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        distfa.Trainer(model(), callbacks=Seen(3), **how).fit(*samples)
    torch.manual_seed(1)
    other = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.BatchNorm1d(20), nn.Linear(20, 5))
    with pytest.raises(CheckpointError, match="no checkpoint yet, and it started from different weights"):
        distfa.Trainer(other, **how).fit(*samples, resume=tmp_path / "run")
    distfa.Trainer(model(), **how).fit(*samples, resume=tmp_path / "run")


def test_what_is_known_of_a_callback_that_is_not_there_any_more_is_told_of(samples, tmp_path, caplog):
    how = settings(tmp_path / "run", epochs=3)
    with pytest.raises(KeyboardInterrupt):
        distfa.Trainer(model(), callbacks=callbacks(11), **how).fit(*samples)
    distfa.Trainer(model(), callbacks=distfa.BestWeights(), **how).fit(*samples, resume=tmp_path / "run")
    assert "the checkpoint includes EarlyStopping, Seen, which this fit does not have" in caplog.text


def test_a_loaders_generator_begins_again_where_the_interrupted_fit_began(samples, tmp_path):
    """The order of a resumed fit was drawn from where the generator had got to, and the fit was refused."""
    (x, y), test = samples

    def loader():
        given = TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
        return DataLoader(given, batch_size=16, shuffle=True, generator=torch.Generator().manual_seed(3))

    def fitted(name, mine, how):
        trainer = distfa.Trainer(model(), callbacks=Seen(), **settings(tmp_path / name, epochs=3))
        trainer.fit(mine, test)
        trainer._callbacks = [Seen(how)]
        return trainer

    ours, theirs = loader(), loader()
    whole, cut = fitted("whole", ours, -1), fitted("cut", theirs, 11)
    whole.fit(ours, test)
    with pytest.raises(KeyboardInterrupt):
        cut.fit(theirs, test)
    shutil.copytree(tmp_path / "cut-2", tmp_path / "other")
    anew = distfa.Trainer(model(), **settings(tmp_path / "cut", epochs=3))
    for trainer, mine, where in ((cut, theirs, "cut-2"), (anew, loader(), "other")):
        trainer._callbacks = [Seen()]
        trainer.fit(mine, test, resume=tmp_path / where)
        same_weights(trainer.model.state_dict(), whole.model.state_dict())
        assert trainer._callbacks[0].steps == whole._callbacks[0].steps
        assert torch.equal(ours.generator.get_state(), mine.generator.get_state())
    plain = DataLoader(ours.dataset, batch_size=16, shuffle=True)
    with pytest.raises(DataError, match="have 0 generators of their own, .* had 1; pass the loaders as they were"):
        whole.fit(plain, test, resume=tmp_path / "cut-2")
