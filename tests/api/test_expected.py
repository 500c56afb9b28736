"""More of what users of Lightning, Keras and Ray Train try: Ray Data, tensors, Ctrl-C on Ray, completion and types."""

import ast
import inspect
import os
import signal
import threading
import typing
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import blobs
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import distfa
from distfa.errors import DataError, SpecError
from distfa.run.disk.weights import load_weights


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 5))


@pytest.fixture
def data():
    x, y = blobs(12, 5, 100)
    return x.astype(np.float32), y


@pytest.fixture
def fitted(tmp_path):
    """Weights after a short run on data of any kind."""
    count = iter(range(9))

    def fit(*given, **options):
        net = model()
        run_dir = str(tmp_path / str(next(count)))
        distfa.Trainer(net, engine="serial", epochs=2, batch_size=16, run_dir=run_dir).fit(*given, **options)
        return net.state_dict()

    return fit


def same(one, other):
    return all(torch.equal(one[key], other[key]) for key in one)


def test_tensors_a_tensor_dataset_a_loader_of_it_and_batches_are_the_same_data(data, fitted):
    x, y = data
    tensors = torch.from_numpy(x), torch.from_numpy(y)
    plain = fitted((x, y))
    assert same(plain, fitted(tensors))
    assert same(plain, fitted(TensorDataset(*tensors)))
    assert same(plain, fitted(DataLoader(TensorDataset(*tensors), batch_size=16, shuffle=True)))
    assert same(plain, fitted([(x[k : k + 30], y[k : k + 30]) for k in range(0, 100, 30)]))


@pytest.mark.slow
def test_ray_data_is_a_table(data, fitted):
    import ray

    pytest.importorskip("pyarrow", reason="NOT TESTED: Ray Data needs pyarrow (pip install 'distfa[tune]')")
    x, y = data
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        one = [{"image": image, "label": int(label)} for image, label in zip(x, y, strict=True)]
        assert same(fitted((x, y)), fitted(ray.data.from_items(one), target="label"))
        several = [{f"c{i}": float(v) for i, v in enumerate(row)} | {"y": int(n)} for row, n in zip(x, y, strict=True)]
        assert same(fitted((x, y)), fitted(ray.data.from_items(several).repartition(4)))
        trainer = distfa.Trainer(model(), engine="serial")
        assert trainer.evaluate(ray.data.from_items(several)) == trainer.evaluate((x, y))
        assert torch.equal(trainer.predict(ray.data.from_items(one)), trainer.predict(x))
    finally:
        ray.shutdown()


class Interrupt(distfa.Callback):
    def on_step(self, at):
        if at.step == 60:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
def test_ctrl_c_on_ray_keeps_the_weights_and_is_no_exception_that_a_sweep_would_swallow(data, tmp_path):
    assert threading.current_thread() is threading.main_thread()
    net, run_dir = model(), tmp_path / "run"
    trainer = distfa.Trainer(
        net, callbacks=Interrupt(), epochs=200, batch_size=16, run_dir=str(run_dir), optimizer={"lr": 0.01}
    )
    with pytest.raises(KeyboardInterrupt, match="interrupted after"):
        try:
            trainer.fit(data, data)
        except Exception as exc:
            pytest.fail(f"a sweep would have gone on after {exc!r}")
    assert same(net.state_dict(), load_weights(run_dir))
    assert not same(net.state_dict(), model().state_dict())
    assert trainer.evaluate(data).accuracy > 0.3


def test_one_hot_rows_of_floats_are_told_what_they_may_be(data, fitted):
    x, y = data
    with pytest.raises(
        SpecError, match=r"use loss: mse for quantities, bce for several.*for one-hot rows, y.argmax\(1\)"
    ):
        fitted((x, np.eye(5, dtype=np.float32)[y]))
    with pytest.raises(DataError, match=r"argmax\(1\) for one-hot rows"):
        fitted((x, np.eye(5, dtype=np.int64)[y]))


def test_best_weights_alone_let_the_run_end_and_give_back_the_best(data, tmp_path):
    best = distfa.BestWeights(monitor="train_loss")
    trainer = distfa.Trainer(model(), engine="serial", epochs=3, callbacks=best, run_dir=str(tmp_path / "run"))
    trainer.fit(data)
    assert (len(trainer.history), best.step, best.best) == (3, 12, min(trainer.history["train_loss"]))


def test_a_quiet_run_says_nothing(data, tmp_path, capfd):
    distfa.Trainer(model(), engine="serial", epochs=1, verbose=False, run_dir=str(tmp_path / "run")).fit(data)
    assert capfd.readouterr() == ("", "")


def test_what_completion_and_type_checkers_see_is_what_there_is():
    tree = ast.parse(Path(distfa.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {(alias.asname or alias.name): (node.module, alias.name) for node in block.body for alias in node.names}
    assert seen.keys() | {"__version__"} == set(distfa.__all__) == set(dir(distfa))
    for name, (module, attribute) in seen.items():
        found = getattr(distfa, name)
        assert found is getattr(__import__(module, fromlist=[attribute]), attribute)
    assert (Path(distfa.__file__).parent / "py.typed").exists()
    for method in (m for n, m in inspect.getmembers(distfa.Trainer, inspect.isfunction) if not n.startswith("__")):
        hints = typing.get_type_hints(method)
        assert hints.keys() == {"return", *inspect.signature(method).parameters} - {"self"}, method
