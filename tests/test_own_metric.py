"""Metrics beside the loss: several, per class, one's own; the same in every engine, in the result and on the page."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import ThreadRun, blobs, raw, recipe, run_serial
from torch import nn

import distfa
from distfa.core.base.metrics import METRICS, in_words
from distfa.core.books.records import EvalRecord
from distfa.errors import SpecError
from distfa.report import write_report

X, LABELS = blobs(6, 7, 80)
QUANTITIES = np.stack([X[:, 0], X[:, 1] * X[:, 2]], axis=1)


def margin(outputs, targets):
    best = outputs.topk(2, dim=-1).values
    return (best[:, 0] - best[:, 1]).mean()


def accuracy(outputs, targets):
    return 1.0


def halves(outputs, targets):
    return {"even": float((targets % 2 == 0).sum()), "odd": float((targets % 2).sum())}


class Rows:
    """As torchmetrics has them."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.rows = 0

    def update(self, output, target):
        self.rows += len(target)

    def compute(self):
        return self.rows


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def fitted(y, outputs, metrics, **settings):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, outputs))
    trainer = distfa.Trainer(model, metrics=metrics, engine="serial", epochs=2, **settings)
    return trainer, trainer.fit((X[:60], y[:60]), (X[60:], y[60:]))


def test_distfas_own_are_those_of_scikit_learn():
    from sklearn.metrics import precision_recall_fscore_support, r2_score, top_k_accuracy_score

    outputs, labels = torch.randn(40, 7, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 7

    def of(name, output, target):
        meter = METRICS[name]()
        meter.update(output[:13], target[:13])
        meter.update(output[13:], target[13:])
        return meter.compute().numpy()

    by_class = precision_recall_fscore_support(labels, outputs.argmax(1), zero_division=np.nan)
    for name, wanted in zip(("precision", "recall", "f1"), by_class, strict=False):
        np.testing.assert_allclose(of(name, outputs, labels), wanted)
    assert of("top5", outputs, labels) == pytest.approx(top_k_accuracy_score(labels, outputs, k=5))
    assert of("r2", outputs, outputs.roll(1, 0)) == pytest.approx(r2_score(outputs.roll(1, 0), outputs))


def test_they_are_in_the_result_the_history_the_log_and_on_the_page():
    trainer, result = fitted(LABELS, 7, ["top5", "recall", margin, halves, Rows()])
    assert list(result.metrics) == ["top5", "recall", "margin", "halves", "Rows"]
    assert len(result.metrics["recall"]) == 7
    assert result.metrics["halves"]["even"] + result.metrics["halves"]["odd"] == result.metrics["Rows"] == 20
    assert trainer.history["test_margin"][-1] == result.metrics["margin"]
    assert "test_top5" in str(trainer.history)
    scores = trainer.evaluate((X[60:], LABELS[60:]))
    assert scores.metrics["margin"] == pytest.approx(result.metrics["margin"], rel=1e-5)
    assert distfa.evaluate(result.run_dir, arrays=(X[60:], LABELS[60:]), model=trainer.model).metrics == result.metrics
    last = json.loads(Path(result.run_dir, "metrics.jsonl").read_text().splitlines()[-1])
    assert last["metrics"]["recall"] == result.metrics["recall"]
    page = write_report(result.run_dir).read_text()
    assert "Metrics of the test set: top5 " in page
    assert "<th" in page
    assert "test recall" in page
    assert "test recall: mean" in repr(result)


def test_figures_of_quantities():
    _, result = fitted(QUANTITIES, 2, "mae,rmse,r2", loss="mse")
    assert set(result.metrics) == {"mae", "rmse", "r2"}
    assert result.metrics["rmse"] ** 2 == pytest.approx(result.test_loss, rel=1e-5)


def test_workers_give_the_figures_of_one_process():
    r = recipe(metrics=("top5", "recall"))
    records = run_serial(r)[1]
    with ThreadRun(r, raw(r), transport="loopback") as run:
        wired = run.train()[1]
    found = [[record.metrics for record in each if isinstance(record, EvalRecord)] for each in (records, wired)]
    assert found[0] == found[1]
    assert found[0][0]["top5"] == 1.0  # of five classes


@pytest.mark.parametrize(("mode", "better"), [("auto", max), ("min", min)])
def test_the_best_weights_may_be_those_of_a_metric(mode, better):
    best = distfa.BestWeights(monitor="test_margin", mode=mode)
    trainer, result = fitted(LABELS, 7, [margin], callbacks=[best])
    assert result.best["figure"] == better(trainer.history["test_margin"]) == result.metrics["margin"]


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ("top", "did you mean 'top5'"),
        ("mae", "metric 'mae' is not for labels, which the targets are; for those are top5, recall"),
        (
            lambda outputs, targets: outputs @ targets,
            "fails on outputs of shape .20, 7. and targets of shape .20,.: Runt",
        ),
        (
            lambda outputs, targets: outputs,
            r"gives numbers of shape \(20, 7\), .*it must give one number, one for each",
        ),
        (lambda outputs, targets: "good", "gives 'good'; it must give one number"),
        (accuracy, "would hide the run's own test accuracy; give it another name"),
        (3.0, "is of type float; a metric is a function of"),
    ],
)
def test_what_is_no_metric_is_refused_before_the_start(metrics, message):
    with pytest.raises(SpecError, match=message):
        fitted(LABELS, 7, metrics)


def test_without_a_test_set_there_are_none():
    with pytest.raises(SpecError, match="metrics are figures of a test set, but data set 'arrays' has none"):
        distfa.Trainer(nn.Sequential(nn.Linear(6, 7)), metrics="top5", engine="serial").fit((X, LABELS))


def test_a_figure_that_the_run_has_not_cannot_be_watched():
    with pytest.raises(SpecError, match="monitors test_margins, .* did you mean 'test_margin'"):
        fitted(LABELS, 7, [margin], callbacks=[distfa.BestWeights(monitor="test_margins")])
    with pytest.raises(SpecError, match="monitors test_recall, which the run does not have"):
        fitted(LABELS, 7, ["recall"], callbacks=[distfa.BestWeights(monitor="test_recall")])
    with pytest.raises(SpecError, match="monitors test_halves, but metric halves gives several numbers"):
        fitted(LABELS, 7, [halves], callbacks=[distfa.EarlyStopping(monitor="test_halves")])


def test_words_for_a_figure_per_class():
    assert in_words("recall", [1.0, 0.5, None], ["cat", "dog", "ox"]) == "recall: mean 0.7500, lowest 0.5000 (dog)"
