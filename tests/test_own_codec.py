"""A codec and a schedule of learning rates of one's own: the same in every engine, and refused where they are wrong."""

import json

import numpy as np
import pytest
import torch
from commands import here
from runs import ThreadRun, assert_same_bits, blobs, raw, recipe, run_serial
from torch import nn

import distfa
from distfa.codecs import CODECS
from distfa.core.base.losses import LOSSES
from distfa.core.base.metrics import METRICS
from distfa.core.base.optim import SCHEDULE_SHAPES, OptimizerConfig, rate
from distfa.errors import LayerError, SpecError
from distfa.runtime.coordinator import boundary_bytes

X, LABELS = blobs(6, 4, 80)


class Half:
    """16-bit floats."""

    name = "half"
    fixed_length = True

    def max_payload_bytes(self, rows, columns, dtype):
        return 2 * rows * columns

    def encode(self, signal):
        return signal.half().numpy().tobytes()

    def decode(self, payload, rows, columns, dtype):
        return torch.from_numpy(np.frombuffer(payload, np.float16).reshape(rows, columns).copy()).to(dtype)


class Long(Half):
    def encode(self, signal):
        return super().encode(signal) + b"0"


class Drawing(Half):
    def encode(self, signal):
        return super().encode(signal + torch.randn_like(signal))


class Boasting(Half):
    def lossless(self, dtype):
        return True


class Boasted(Half):
    lossless = True


class Wide(Half):
    """It is found out only by signals wider than those that it is tried with."""

    def max_payload_bytes(self, rows, columns, dtype):
        return super().max_payload_bytes(rows, min(columns, 7 if columns < 13 else 13), dtype)


class Flat(Half):
    def decode(self, payload, rows, columns, dtype):
        return super().decode(payload, rows, columns, dtype).flatten()


class Named(Half):
    def __init__(self, bits):
        self.bits = bits


def falling(step, steps):
    return 0.5 ** (step // 2)


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def fitted(**settings):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    usual = {"engine": "serial", "epochs": 1, "rule": "bp"}
    return distfa.Trainer(model, **usual | settings).fit((X[:60], LABELS[:60]), (X[60:], LABELS[60:]))


def test_workers_train_with_a_codec_as_one_process_does_and_send_the_bytes_that_it_says():
    r = recipe(rule="bp", micro_batches=2)
    name = CODECS.adopt(Half())
    weights = run_serial(r, activations=name, errors=name)[0]
    with ThreadRun(r, raw(r), activations=name, errors=name) as run:
        wired = run.train()[0]
        sent = boundary_bytes(run.coordinator.traffic(), r.network.boundaries)
    assert_same_bits(weights, wired)
    rows = 75 * r.epochs
    for row in sent:
        assert row["up_payload"] == row["down_payload"] == 2 * rows * r.network.sizes[row["boundary"]]
    exact = run_serial(r)[0]
    assert any(not torch.equal(exact[key], weights[key]) for key in weights)


def test_fit_takes_a_codec_both_ways_and_counts_its_bytes():
    half, exact = fitted(codec=Half), fitted()
    assert 2 * half.bytes["total"]["up_payload"] == exact.bytes["total"]["up_payload"]
    assert half.bytes["total"]["bp_payload"] == half.bytes["total"]["up_payload"] * 2


@pytest.mark.parametrize(
    ("codec", "message"),
    [
        (Long, "encode made 209 bytes of a signal of shape .8, 13., but max_payload_bytes says 208"),
        (Drawing, "makes other bytes of the same signal a second time"),
        (Boasting, "says that it is lossless for torch.float32, but it gives back other numbers"),
        (Flat, r"decode returned \(104,\), torch.float32, expected \(8, 13\)"),
        (Named, "cannot be called without arguments"),
        (Boasted, "has lossless as a value; make it a method"),
        (nn.ReLU, r"is a ReLU without encode\(\), decode\(\), max_payload_bytes\(\)"),
        ("int9", "did you mean 'int8'"),
    ],
)
def test_what_is_no_codec_is_refused_before_the_start(codec, message):
    with pytest.raises(SpecError, match=message):
        fitted(codec=codec)


def test_a_codec_that_fails_in_a_step_is_refused_by_layer_and_step():
    with pytest.raises(LayerError, match=r"layer 1, step 0: .*encode made 512 bytes .* but max_payload_bytes says 448"):
        fitted(codec=Wide)


def test_a_schedule_is_a_share_of_the_rate_at_every_step():
    config = OptimizerConfig(lr=0.1, warmup_steps=2, schedule=SCHEDULE_SHAPES.adopt(falling))
    assert [rate(config, step, 8) for step in range(6)] == pytest.approx([0.05, 0.1, 0.1, 0.1, 0.05, 0.05])


def test_a_step_for_which_a_schedule_has_no_rate_ends_the_run():
    config = OptimizerConfig(schedule=SCHEDULE_SHAPES.adopt(lambda step, steps: float("nan") if step == 1 else 1.0))
    with pytest.raises(SpecError, match="gives nan for step 1 of 3"):
        rate(config, 1, 3)


def test_fit_takes_a_schedule():
    own = fitted(optimizer={"name": "sgd", "lr": 0.1, "schedule": falling}, batch_size=10)
    by_torch = fitted(
        optimizer={"name": "sgd", "lr": 0.1},
        scheduler=lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: falling(step, 0)),
        scheduler_by="step",
        batch_size=10,
    )
    constant = fitted(optimizer={"name": "sgd", "lr": 0.1}, batch_size=10)
    assert own.steps == 6
    assert own.train_loss == by_torch.train_loss != constant.train_loss


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (lambda step, steps: -1.0, "gives -1.0 for step 0 of 2; it must give a share of lr, 0 or more"),
        (lambda step, steps: 1.0 - 3 * step / steps, "gives -0.5 for step 1 of 2; it must"),
        (lambda step: 1.0, "fails for step 0 of 2: TypeError"),
        ("cosin", "did you mean 'cosine'"),
    ],
)
def test_what_is_no_schedule_is_refused_before_the_start(schedule, message):
    with pytest.raises(SpecError, match=message):
        fitted(optimizer={"schedule": schedule})


PARTS = """
import numpy as np, torch
from torch import nn
from my_helpers import power

class Half:
    fixed_length = True
    def max_payload_bytes(self, rows, columns, dtype): return 2 * rows * columns
    def encode(self, signal): return signal.half().numpy().tobytes()
    def decode(self, payload, rows, columns, dtype):
        return torch.from_numpy(np.frombuffer(payload, np.float16).reshape(rows, columns).copy()).to(dtype)

smooth = nn.CrossEntropyLoss(label_smoothing=0.1)
def largest(outputs, targets): return outputs.max()
def falling(step, steps): return power(step)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
def test_files_of_ones_own_travel_to_workers_that_do_not_have_them(tmp_path):
    (tmp_path / "my_parts.py").write_text(PARTS)
    (tmp_path / "my_helpers.py").write_text("def power(step): return 0.9 ** step\n")
    parts = ("loss=my_parts:smooth", "metrics=[my_parts:largest, recall]", "codec=my_parts:Half")
    changes = (*parts, "optimizer.schedule=my_parts:falling", "data.limit=64", "epochs=1", "rule=bp")
    words = [word for change in changes for word in ("--set", change)]
    found = []
    for engine in ("ray", "serial"):
        done = here("train", *words, "--engine", engine, "--json", cwd=tmp_path)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    ray, serial = found
    for key in ("train_loss", "test_loss", "metrics"):
        assert ray[key] == serial[key], key
    assert ray["bytes"]["total"]["up_payload"] == serial["bytes"]["total"]["up_payload"] == 2 * 64 * 256
    for table in (LOSSES, METRICS, CODECS, SCHEDULE_SHAPES):
        table.forget()
