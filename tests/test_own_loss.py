"""Losses of one's own: what torch's own loop would do with them, and which are refused before the start."""

import copy
import functools
import re

import numpy as np
import pytest
import torch
from commands import here
from runs import blobs
from torch import nn
from torch.nn import functional as F

import distfa
from distfa.core.base.losses import LOSSES
from distfa.errors import DataError, SpecError

ROWS, BATCH = 40, 16
X, LABELS = blobs(6, 4, ROWS)
QUANTITIES = np.stack([X[:, 0] + X[:, 1], X[:, 2] * X[:, 3]], axis=1)
WEIGHT = torch.tensor([0.2, 1.0, 3.0, 0.5], dtype=torch.float64)


def focal(output, target, gamma=2.0):
    log_p = F.log_softmax(output, dim=-1).gather(-1, target.unsqueeze(-1)).squeeze(-1)
    return (-((1 - log_p.exp()) ** gamma) * log_p).mean()


def total(output, target):
    return ((output - target) ** 4).sum() / 100


def contrast(output, target):
    return F.mse_loss(output, target) / output.std()


def noisy(output, target):
    return F.mse_loss(output + torch.randn_like(output), target)


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Margin(nn.Module):
    def __init__(self, margin=1.0):
        super().__init__()
        self.margin = margin

    def forward(self, output, target):
        return F.multi_margin_loss(output, target, margin=self.margin)


class Trained(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))


def net(outputs, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, outputs)).double()


def by_torch(model, loss, y, epochs):
    """torch's own loop, on batches in the order of the rows."""
    model, loss = copy.deepcopy(model), copy.deepcopy(loss)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x, y = torch.from_numpy((X - X.mean()) / X.std()), torch.from_numpy(y)
    for _ in range(epochs):
        for at in range(0, ROWS, BATCH):
            optimizer.zero_grad()
            loss(model(x[at : at + BATCH]), y[at : at + BATCH]).backward()
            optimizer.step()
    return model.state_dict()


def fitted(model, loss, y, **settings):
    """The same by ``fit``, whose loader gives the rows in order."""
    x = torch.from_numpy((X - X.mean()) / X.std())
    pairs = torch.utils.data.TensorDataset(x, torch.from_numpy(y))
    loader = torch.utils.data.DataLoader(pairs, batch_size=BATCH)
    usual = {"rule": "bp", "engine": "serial", "init": "given", "dtype": "float64"}
    usual |= {"optimizer": {"name": "sgd", "lr": 0.05}, "epochs": 2}
    trainer = distfa.Trainer(model, loss=loss, **usual | settings)
    return trainer.fit(loader, normalised=True), trainer


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize(
    ("loss", "y"),
    [
        (nn.CrossEntropyLoss(label_smoothing=0.1, weight=WEIGHT), LABELS),
        (nn.CrossEntropyLoss(ignore_index=1), LABELS),
        (nn.CrossEntropyLoss(reduction="sum"), LABELS),
        (functools.partial(focal, gamma=1.5), LABELS),
        (Margin(0.7), LABELS),
        (nn.HuberLoss(), QUANTITIES),
        (total, QUANTITIES),
    ],
    ids=["smoothed and weighted", "ignoring a class", "sum", "partial", "module", "huber", "a function that sums"],
)
def test_it_is_trained_with_as_in_torchs_own_loop(loss, y, parts):
    model = net(2 if y is QUANTITIES else 4)
    wanted = by_torch(model, loss, y, epochs=2)
    fitted(model, loss, y, micro_batches=parts)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, wanted[key], rtol=0, atol=1e-12, msg=key)


def test_figures_are_means_over_samples():
    (mean, by_mean), (sums, by_sum) = (
        fitted(net(4), nn.CrossEntropyLoss(reduction=way), LABELS, optimizer={"name": "sgd", "lr": 1e-9})
        for way in ("mean", "sum")
    )
    assert mean.train_loss == pytest.approx(sums.train_loss, rel=1e-6)
    assert mean.train_accuracy == sums.train_accuracy
    x = (X - X.mean()) / X.std()
    assert by_sum.evaluate((x, LABELS), normalised=True).loss == pytest.approx(
        by_mean.evaluate((x, LABELS), normalised=True).loss
    )


@pytest.mark.parametrize(
    ("loss", "y", "message"),
    [
        (
            contrast,
            QUANTITIES,
            "test_own_loss:contrast' is neither the mean nor the sum over the samples: on 24 samples",
        ),
        (noisy, QUANTITIES, "gives another gradient when it is called again"),
        (lambda output, target: (output - target) ** 2, QUANTITIES, "must return a tensor of one number"),
        (nn.MSELoss(), LABELS, "fails on outputs of shape .24, 4. and targets of shape .24,., int64: UserWarning"),
        (nn.MSELoss(reduction="none"), QUANTITIES, "has reduction='none', but a loss is one number"),
        (Trained(), QUANTITIES, "has parameters that would be trained"),
        (3, QUANTITIES, "is of type int; a loss is a torch.nn.Module or a function"),
        (nn.CosineEmbeddingLoss, QUANTITIES, "fails on outputs"),
        (lambda output, target: (output - target).mean() / 0, QUANTITIES, "ValueError: the loss is -?inf, or its grad"),
        ("crossentropy", LABELS, "did you mean 'cross_entropy'"),
    ],
)
def test_what_cannot_be_trained_with_is_refused_by_name(loss, y, message):
    with pytest.raises(SpecError, match=message):
        fitted(net(2 if y is QUANTITIES else 4), loss, y)


def test_a_mean_weighted_by_labels_is_refused_also_where_labels_are_sorted():
    weighted = functools.partial(F.cross_entropy, weight=WEIGHT.float())
    with pytest.raises(SpecError, match="neither the mean nor the sum over the samples"):
        distfa.Trainer(net(4).float(), loss=weighted, engine="serial").fit((X, np.sort(LABELS)))


def test_a_function_with_numbers_of_its_own_gets_outputs_of_the_models_dtype():
    weighted = functools.partial(F.cross_entropy, weight=WEIGHT.float(), reduction="sum")
    trainer = distfa.Trainer(net(4).float(), loss=weighted, engine="serial", epochs=1)
    result = trainer.fit((X, LABELS), (X, LABELS))
    assert trainer.evaluate((X, LABELS)).loss == pytest.approx(result.test_loss, rel=1e-6)


def log_likelihood(output, target):
    return -(target * output.log()).sum(-1).mean()


@pytest.mark.parametrize("loss", [nn.BCELoss(), log_likelihood])
def test_a_loss_of_probabilities_is_trained_with_as_in_torchs_own_loop(loss):
    model, y = nn.Sequential(*net(2), nn.Sigmoid()), (QUANTITIES > 0).astype(float)
    wanted = by_torch(model, loss, y, epochs=1)
    fitted(model, loss, y, epochs=1, micro_batches=3)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, wanted[key], rtol=0, atol=1e-12, msg=key)


def test_a_batch_without_a_label_that_counts_ends_the_run():
    with pytest.raises(DataError, match="no label in this batch or split of 16 samples counts in the loss"):
        fitted(net(4), nn.CrossEntropyLoss(ignore_index=0), np.where(np.arange(ROWS) < 20, 0, 1))


def test_in_a_spec_it_is_named(tmp_path):
    (tmp_path / "my_losses.py").write_text(
        "from torch import nn\nsmooth = nn.CrossEntropyLoss(label_smoothing=0.1)\nclass Wide(nn.Module):\n"
        "    def __init__(self, width): pass\n"
    )
    small = ("--set", "data.limit=64", "--epochs", "1", "--engine", "serial")
    named = here("train", *small, "--set", "loss=my_losses:smooth", "--json", cwd=tmp_path).stdout
    built_in = here("train", *small, "--set", "label_smoothing=0.1", "--json", cwd=tmp_path).stdout
    first, second = (re.search(r'"test_loss": ([\d.]+)', said)[1] for said in (named, built_in))
    assert float(first) == pytest.approx(float(second), rel=1e-4)
    refused = here("train", *small, "--set", "loss=my_losses:Wide", cwd=tmp_path, check=False).stderr
    assert "cannot be called without arguments" in " ".join(refused.split())
    LOSSES.forget()
