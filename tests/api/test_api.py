"""What users of other libraries expect of a trainer: callbacks, history, torch's objects, their own kinds of data."""

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from runs import blobs
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, Dataset

import distfa
from distfa.data.given_order import GivenOrder, Ordered
from distfa.data.stream import stream_samples
from distfa.errors import DataError, SpecError


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 8), nn.Tanh(), nn.Linear(8, 5))


def convolutions():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5))


@pytest.fixture
def data():
    x, y = blobs(12, 5, 120)
    return (x[:100].astype(np.float32), y[:100]), (x[100:].astype(np.float32), y[100:])


@pytest.fixture
def settings(tmp_path):
    return {
        "engine": "serial",
        "epochs": 6,
        "batch_size": 16,
        "optimizer": {"lr": 0.01},
        "run_dir": str(tmp_path / "run"),
    }


class Told(distfa.Callback):
    def __init__(self):
        self.events = []

    def _add(self, name, at):
        self.events.append((name, at.step))

    def __getattribute__(self, name):
        if name.startswith("on_"):
            return lambda at: object.__getattribute__(self, "_add")(name, at)
        return object.__getattribute__(self, name)


def test_callbacks_are_told_of_everything_in_order(data, settings):
    told = Told()
    trainer = distfa.Trainer(model(), callbacks=told, **{**settings, "epochs": 2})
    trainer.fit(*data)
    assert [event for event in told.events if event[0] != "on_step"] == [
        ("on_start", 0),
        ("on_evaluation", 7),
        ("on_epoch", 7),
        ("on_checkpoint", 7),
        ("on_evaluation", 14),
        ("on_epoch", 14),
        ("on_end", 14),
    ]
    assert [step for name, step in told.events if name == "on_step"] == list(range(1, 15))


def test_history_has_a_row_per_epoch_and_a_second_fit_goes_on(data, settings):
    net = model()
    trainer = distfa.Trainer(net, **settings)
    first = trainer.fit(*data)
    assert trainer.history["epoch"] == [1, 2, 3, 4, 5, 6]
    assert trainer.history["test_loss"][-1] == first.test_loss
    assert "test_accuracy" in str(trainer.history)
    assert "<td>6</td>" in trainer.history._repr_html_()
    second = trainer.fit(*data)
    assert trainer.history["epoch"][-1] == 12
    assert trainer.history["train_loss"][6] < trainer.history["train_loss"][0] / 2  # from the weights of the first
    assert second.train_loss < first.train_loss
    assert second.run_dir.endswith("run-2")
    trainer.reset()
    assert len(trainer.history) == 0
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), model().parameters(), strict=True))


def test_a_result_prints_as_lines_for_a_person(data, settings):
    said = str(distfa.Trainer(model(), **settings).fit(*data)).splitlines()
    assert said[0].startswith("dfa (aligned), 12-20-8-5, engine serial")
    assert any(line.startswith("test loss") and "accuracy" in line for line in said)
    assert max(map(len, said)) < 130


@pytest.mark.parametrize("net", [model, convolutions])
def test_early_stopping_ends_the_run_and_gives_back_the_best_weights(net, data, settings):
    (x, y), (test_x, test_y) = data
    if net is convolutions:
        x, test_x = x.reshape(-1, 1, 3, 4), test_x.reshape(-1, 1, 3, 4)
    stopping = distfa.EarlyStopping(monitor="val_loss", patience=2, min_delta=0.2)
    trainer = distfa.Trainer(net(), callbacks=[stopping], **{**settings, "epochs": 60})
    result = trainer.fit((x, y), (test_x, test_y))
    assert result.stopped.startswith("test_loss has not been better")
    assert result.steps < 60 * 7
    assert len(trainer.history) == result.epochs
    best = min(trainer.history["test_loss"])
    assert stopping.best == best
    assert trainer.evaluate((test_x, test_y)).loss == pytest.approx(best, rel=1e-4)


def test_ctrl_c_is_a_keyboard_interrupt_and_the_weights_so_far_are_kept(data, settings):
    class Interrupt(distfa.Callback):
        def on_step(self, at):
            if at.step == 20:
                os.kill(os.getpid(), signal.SIGINT)

    assert threading.current_thread() is threading.main_thread()
    net = model()
    trainer = distfa.Trainer(net, callbacks=Interrupt(), **settings)
    with pytest.raises(KeyboardInterrupt, match="interrupted after"):
        trainer.fit(*data)
    again = model()
    distfa.Trainer(again, engine="serial").load(settings["run_dir"])
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), again.parameters(), strict=True))
    assert trainer.evaluate(data[1]).accuracy > 0.5


def test_predict_save_and_load(data, settings, tmp_path):
    net = model()
    trainer = distfa.Trainer(net, **settings)
    result = trainer.fit(*data)
    x, y = data[1]
    assert (trainer.predict(x).argmax(1).numpy() == y).mean() == pytest.approx(result.test_accuracy)
    file = trainer.save(tmp_path / "größe" / "weights.safetensors")
    other = distfa.Trainer(model(), engine="serial").load(file)
    assert torch.equal(other.predict(x), trainer.predict(x))


def test_regression_metrics(settings):
    x = np.random.default_rng(0).standard_normal((80, 12)).astype(np.float32)
    y = x[:, :5] * 0.5
    trainer = distfa.Trainer(model(), loss="mse", **{**settings, "epochs": 40})
    trainer.fit((x, y), (x, y))
    found, output = trainer.evaluate((x, y)), trainer.predict(x).double().numpy()
    assert found.mae == pytest.approx(np.abs(output - y).mean(), rel=1e-6)
    assert found.rmse == pytest.approx(np.sqrt(((output - y) ** 2).mean()), rel=1e-6)
    spread = ((y - y.mean(0)) ** 2).sum(0)
    assert found.r2 == pytest.approx((1 - ((output - y) ** 2).sum(0) / spread).mean(), rel=1e-5)


def test_several_labels_of_a_sample(data, settings):
    (x, y), _ = data
    several = np.stack([y == 0, y < 2, y > 2, y == 4, y == 3], 1).astype(np.int64)
    trainer = distfa.Trainer(model(), loss="bce", **{**settings, "epochs": 30})
    result = trainer.fit((x, several), (x, several))
    right = ((trainer.predict(x).numpy() > 0) == several).mean()
    assert result.test_accuracy == pytest.approx(right)
    assert right > 0.9


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        (torch.optim.SGD, {"lr": 0.02, "momentum": 0.9, "nesterov": True}),
        (torch.optim.AdamW, {"lr": 0.003, "betas": (0.8, 0.9), "weight_decay": 0.1}),
    ],
)
def test_torchs_optimizer_objects(kind, keys):
    net = model()
    spec = distfa.Trainer(net, optimizer=kind(net.parameters(), **keys)).spec
    assert spec.optimizer.name == kind.__name__.lower()
    assert all(getattr(spec.optimizer, key) == value for key, value in keys.items())


def test_torchs_optimizers_that_distfa_does_not_have_are_refused():
    net = model()
    with pytest.raises(SpecError, match=r"the optimizer is a Adagrad; distfa supports sgd, adam, adamw"):
        distfa.Trainer(net, optimizer=torch.optim.Adagrad(net.parameters()))
    with pytest.raises(SpecError, match="follows metrics of the run"):
        distfa.Trainer(net, engine="serial", scheduler=lr_scheduler.ReduceLROnPlateau).fit(
            (np.zeros((4, 12), np.float32), np.zeros(4, np.int64))
        )


def test_torchs_schedulers_give_the_rates_they_would_have_given(data, settings):
    net, settings = model(), {**settings, "optimizer": {"name": "sgd", "lr": 0.1}}
    trainer = distfa.Trainer(net, scheduler=lambda o: lr_scheduler.StepLR(o, 2, gamma=0.1), **settings)
    trainer.fit(*data)
    saved = distfa.RunSpec.model_validate(yaml.safe_load(Path(settings["run_dir"], "spec.yaml").read_text()))
    assert [step for step, _ in saved.optimizer.rates] == [0, 14, 28]
    assert [rate for _, rate in saved.optimizer.rates] == pytest.approx([0.1, 0.01, 0.001])


class Noisy(Dataset):
    """Samples that are newly drawn whenever they are read."""

    def __init__(self, x, y):
        self.x, self.y = torch.from_numpy(x), y

    def __len__(self):
        return len(self.y)

    def __getitem__(self, index):
        return self.x[index] + 0.1 * torch.randn(12) + float(np.random.rand()) * 1e-3, int(self.y[index])


def test_augmentation_is_drawn_anew_in_every_epoch_and_is_the_same_in_every_run(data, settings, tmp_path):
    (x, y), test = data
    weights = []
    for number in range(2):
        torch.manual_seed(number)  # the run's own streams do not follow it
        net = model()
        loader = DataLoader(Noisy(x, y), batch_size=16, shuffle=True)
        distfa.Trainer(net, **{**settings, "run_dir": str(tmp_path / str(number))}).fit(loader, test)
        weights.append(net.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])

    twice = GivenOrder.of([[range(100)], [range(100)]])
    rows = stream_samples(Noisy(x, y), range(100), None, twice, seed=0).train_x
    once, again, later = rows[np.arange(3)], rows[np.arange(3)], rows[np.arange(100, 103)]
    assert np.array_equal(once, again)
    assert not np.array_equal(once, later)


def test_samples_that_are_drawn_have_the_same_bits_over_the_wire(data):
    from runs import assert_same_bits, recipe, run_serial, run_threads

    from distfa.runtime.job import RawInputs, RawTargets

    (x, y), (test_x, test_y) = data
    order = GivenOrder.of([np.split(np.arange(100), 5), np.split(np.arange(100)[::-1], [3, 20, 50])])
    made = stream_samples(Noisy(x, y), range(100), (test_x, test_y), order, seed=3)
    of = recipe((12, 17, 5), order="given", epochs=2, batches=order.batches, batch_size=order.largest)
    raw = (
        RawInputs(train=made.train_x, test=made.test_x, mean=made.mean, std=made.std),
        RawTargets(train=Ordered(made.train_y, order), test=made.test_y),
    )
    assert_same_bits(run_serial(of, raw)[0], run_threads(of, raw)[0])


def test_pandas_tables_and_labels_that_are_text(data, settings):
    pandas = pytest.importorskip("pandas")
    (x, y), _ = data
    names = np.array(["ant", "bee", "cat", "dog", "eel"])
    table = pandas.DataFrame(x, columns=[f"c{i}" for i in range(12)]).assign(animal=names[y])
    trainer = distfa.Trainer(model(), **settings)
    trainer.fit(table, target="animal")
    plain = model()
    distfa.Trainer(plain, **{**settings, "run_dir": f"{settings['run_dir']}-plain"}).fit((x, y))
    assert all(torch.equal(p, q) for p, q in zip(trainer.model.parameters(), plain.parameters(), strict=True))
    with pytest.raises(DataError, match="none is named 'animals'"):
        trainer.fit(table, target="animals")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("lr", "optimizer.lr"),
        ("learning_rate", "optimizer.lr"),
        ("momentum", "optimizer.momentum"),
        ("class_weight", "class_weights"),
        ("epochs_", "epochs"),
        ("hidden", "model.hidden"),
        ("gradient_clip_val", "optimizer.clip_norm"),
        ("max_epochs", "epochs"),
        ("optimiser__lr", "optimizer"),
        ("feedback_rule", "rule"),
        ("feedback__ranks", "feedback.rank"),
        ("feedback__init", "init"),
        ("checkpoint__interval", "checkpoint.every"),
        ("ray__num_cpus", "ray.resources.cpus"),
    ],
)
def test_hints_come_from_what_people_mean(typed, meant):
    with pytest.raises(SpecError, match=f"did you mean '{meant}'"):
        distfa.Trainer(model(), **{typed: 1})


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ({"feedback__dist": "normal"}, r"unknown key 'feedback.dist' in the spec; feedback has rank, inside, "),
        (
            {"feedback__renew": 50},
            r"feedback.renew is 50; it is a section of the spec, with the keys every, .*renew.every=\.\.",
        ),
        ({"patience": 3}, r"that is Trainer\(..., callbacks=distfa.EarlyStopping\(patience=3\)\) in Python"),
        ({"validation_data": None}, r"that is fit\(\(x, y\), \(test_x, test_y\)\) in Python"),
    ],
)
def test_what_is_no_key_is_told_by_what_there_is(typed, says):
    with pytest.raises(SpecError, match=says):
        distfa.Trainer(model(), **typed)


def test_labels_from_one_are_told_to_begin_at_zero(data, settings):
    (x, y), _ = data
    with pytest.raises(DataError, match="they start at 1: subtract 1 from them, or give it at least 6"):
        distfa.Trainer(model(), **settings).fit((x, y + 1))


def test_where_nothing_is_near_no_hint_is_given():
    with pytest.raises(SpecError, match=r"unknown key 'zebra' in the spec; 'distfa spec' lists all keys"):
        distfa.Trainer(model(), zebra=1)


def test_the_package_shows_what_it_has():
    assert {"Trainer", "EarlyStopping", "data", "errors", "evaluate", "split"} <= set(dir(distfa))
    assert distfa.data.NAMES
    with pytest.raises(AttributeError, match="it has At, BestWeights"):
        _ = distfa.trainer_


def test_progress_is_shown_where_it_is_asked_for(data, settings, capsys):
    distfa.Trainer(model(), verbose=True, **{**settings, "epochs": 2}).fit(*data)
    said = capsys.readouterr()
    assert "epoch 2: train loss" in said.err
    assert said.out == ""


@pytest.mark.slow
def test_on_ray_a_run_stops_at_its_cut_and_samples_are_drawn_in_the_first_layers_process(data, settings):
    (x, y), test = data
    weights = []
    for engine in ("ray", "serial"):
        net = model()
        trainer = distfa.Trainer(
            net,
            callbacks=distfa.EarlyStopping(patience=1, min_delta=1.0),
            **{**settings, "engine": engine, "run_dir": f"{settings['run_dir']}-{engine}", "epochs": 50},
        )
        result = trainer.fit(DataLoader(Noisy(x, y), batch_size=16, shuffle=True), test)
        assert result.stopped
        assert result.epochs == 2
        weights.append(net.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
