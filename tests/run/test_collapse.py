"""A run that collapses says so, with layer, step and what to try; a run that learns says nothing of the kind."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from runs import recipe

from distfa import data
from distfa.cli.result import result_table
from distfa.core import rules
from distfa.core.base.losses import LOSSES
from distfa.core.base.recipe import FeedbackConfig, RenewConfig
from distfa.core.books.probe import LayerAlignment, ProbeRecord
from distfa.core.books.records import EvalRecord, StepRecord
from distfa.errors import NonFiniteError
from distfa.intake.subject import network_for
from distfa.report import write_report
from distfa.run.collapse import Watcher, build_watcher, lower_rate
from distfa.run.constant_answer import constant_loss
from distfa.run.run import run
from distfa.settings import parse_spec

LN10 = math.log(10)


def found(*records, steps=1000, constant=LN10, chance=0.1, **more):
    """[(finding, layer, step)] of a run of ten classes that has these records."""
    watcher = Watcher(steps=steps, lr=0.03, constant=constant, chance=chance, **more)
    findings = [finding for record in records for finding in watcher.add(record)] + watcher.finish()
    return [(finding.finding, finding.layer, finding.step) for finding in findings]


def losses(*values, accuracy=0.5, rows=32, start=0):
    return [
        StepRecord(step=step, epoch=0, loss=value, correct=round(accuracy * rows), rows=rows)
        for step, value in enumerate(values, start)
    ]


def probe(step, *cosines, **changes):
    """A probe whose layers have these cosines; ``changes`` are layer 1's."""
    layer = LayerAlignment(layer=1, cosine=0.0, gradient_norm=1.0, update_norm=1.0, a=1.0)
    layers = [replace(layer, layer=index, cosine=cosine) for index, cosine in enumerate(cosines, 1)]
    layers[0] = replace(layers[0], **changes)
    return ProbeRecord(step=step, cosine=0.5, dominance=0.5, min_dominance=0.5, loss_fall=1.0, layers=tuple(layers))


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("kind", ["labels", "floats"])
def test_no_constant_answer_has_less_than_the_loss_of_the_best_one(loss, kind):
    """Against the loss itself, minimised over one answer for all samples."""
    rng = np.random.default_rng(0)
    y = rng.choice(4, 300, p=[0.5, 0.3, 0.15, 0.05]) if kind == "labels" else rng.normal(2, [1, 2, 3, 4], (300, 4))
    expected = constant_loss(loss, y, 4)
    if loss == "cross_entropy" and kind == "floats":
        assert expected is None
        return
    answer = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([answer], max_iter=100, tolerance_change=1e-14)
    target, value = torch.from_numpy(y), math.inf

    def closure():
        scored = LOSSES[loss](answer.detach().expand(300, 4).clone(), target, 300)
        answer.grad = scored.gradient.sum(0)
        return scored.loss

    for _ in range(20):
        value = optimizer.step(closure)
    assert expected == pytest.approx(value, rel=1e-6)  # where the minimiser stops


def test_a_loss_not_known_here_is_not_judged():
    assert constant_loss("hinge", np.arange(4), 4) is None
    assert found(*losses(*[3.0] * 900), constant=None, chance=None) == []


def test_a_loss_back_at_that_of_a_constant_answer_is_found_where_it_comes_back():
    up = losses(*np.linspace(2.5, 0.5, 100), *[2.31] * 100)
    ((kind, layer, step),) = found(*up)
    assert (kind, layer) == ("fell back", None)
    assert 115 < step < 125  # a window of twenty later
    assert found(*losses(*np.linspace(2.5, 0.5, 100), 9.0, 9.0, 9.0, *[0.5] * 100)) == []  # three odd batches


def test_a_run_that_has_not_learned_is_told_late_or_at_its_end():
    assert found(*losses(*[5.0] * 400)) == [("constant answer", None, 334)]  # a third of 1000 steps
    assert found(*losses(*[2.3] * 100)) == [("constant answer", None, 99)]  # the end
    assert found(*losses(*[2.3] * 10)) == []  # too short to say
    assert found(*losses(*np.linspace(2.4, 2.0, 100))) == []


def test_an_exploding_loss_is_found_at_once_and_once():
    assert found(*losses(2.4, 2.0, 1e3, 1e5, 3e19, 3e19)) == [("exploded", None, 4)]
    assert found(*losses(500.0, 300.0, 200.0, 100.0), constant=None) == []  # a regression may start high


def test_a_loss_that_is_no_number_is_found():
    assert found(*losses(2.4, math.nan, math.inf)) == [("not finite", None, 1)]


def test_accuracy_that_falls_back_to_chance_is_found():
    """As on CIFAR-100: best 13 %, then 1 %."""

    def test(step, accuracy, rows=10_000):
        return EvalRecord(step=step, epoch=0, loss=1.0, correct=round(rows * accuracy), rows=rows)

    assert found(test(195, 0.1293), test(390, 0.0156), chance=0.01) == [("chance", None, 390)]
    assert found(test(195, 0.1293), test(390, 0.08), chance=0.01) == []
    assert found(test(195, 0.14, rows=50), test(390, 0.0, rows=50), chance=0.1) == []  # within what chance does
    assert found(*losses(*[1.0] * 50, accuracy=0.9), *losses(*[1.0] * 50, accuracy=0.1, start=50))[0][:2] == (
        "chance",
        None,
    )


def test_layers_that_are_dead_stopped_or_no_longer_aligned_are_named():
    high, low = losses(*[2.0] * 30), losses(*[0.01] * 30)
    assert found(*high, probe(30, 0.9, 1.0, active=0.002)) == [("dead", 1, 30)]
    assert found(*high, probe(30, 0.0, 1.0, update_norm=0.0)) == [("stopped", 1, 30)]
    assert found(*low, probe(30, 0.0, 1.0, update_norm=0.0)) == []  # nothing left to learn
    away = [probe(step, cosine, 1.0) for step, cosine in enumerate((0.7, 0.3, 0.01, 0.005, -0.4), 30)]
    assert found(*high, *away) == [("misaligned", 1, 33)]
    assert found(*low, *away) == []
    assert found(*high, *away, follows_gradient=False) == []
    assert found(*high, *(probe(step, 0.01, 1.0) for step in range(30, 40))) == []  # a random start was never aligned


# -- real runs ------------------------------------------------------------------------------------


def trained(tmp_path, **settings):
    """The result of a run on digits."""
    dataset = data.load("digits")
    whole = {"engine": "serial", "ledger": {"every": 0}, "probe": {"every": 50}, "epochs": 8, **settings}
    spec = parse_spec({**whole, "run_dir": str(tmp_path / "run")})
    return run(spec, network_for(spec, dataset), dataset)[0]


@pytest.mark.parametrize(
    "settings",
    [
        *({"rule": rule, "init": init} for rule, init in (("dfa", "aligned"), ("fa", "random"), ("kp", "aligned"))),
        *(
            pytest.param({"rule": rule, "init": init}, marks=pytest.mark.slow)
            for rule, init in (("dfa", "random"), ("fa", "aligned"), ("kp", "random"))
        ),
        {"rule": "bp"},
        {"rule": "brsf"},
        {"rule": "dfa", "loss": "mse"},
        {"rule": "dfa", "optimizer": {"name": "sgd", "lr": 0.05}, "init": "random"},
        {"rule": "dfa", "optimizer": {"lr": 3e-5}},  # slow, and not collapsed
        *({"rule": "drtp", "init": init, "model": {"activation": "tanh"}} for init in ("aligned", "random")),
    ],
    ids=str,
)
def test_a_run_that_learns_has_no_findings(tmp_path, settings):
    assert trained(tmp_path, **settings, epochs=4).findings == []


@pytest.mark.parametrize(
    ("settings", "finding"),
    [
        ({"rule": "dfa", "optimizer": {"lr": 0.1}}, "exploded"),
        ({"rule": "dfa", "optimizer": {"lr": 0.03}}, "fell back"),
        ({"rule": "bp", "optimizer": {"lr": 0.3}}, "stopped"),
        ({"rule": "bp", "optimizer": {"lr": 0.3}}, "constant answer"),
        ({"rule": "dfa", "optimizer": {"name": "sgd", "lr": 1e6}, "check_finite": False}, "not finite"),
    ],
)
def test_a_run_that_collapses_ends_with_a_finding_that_says_what_to_try(tmp_path, settings, finding):
    first = next(found for found in trained(tmp_path, **settings).findings if found["finding"] == finding)
    assert first["step"] > 0
    assert (first["layer"] is not None) == (finding == "stopped")
    assert "try a lower rate (optimizer.lr" in first["advice"]


def test_a_finding_is_in_the_metrics_the_result_the_summary_and_the_report(tmp_path, capsys):
    result = trained(tmp_path, optimizer={"lr": 0.1}, epochs=1)
    (first, *_) = result.findings
    place = tmp_path / "run"
    rows = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    assert next(row for row in rows if row["kind"] == "finding") == {"kind": "finding", **first}
    assert json.loads((place / "run.json").read_text())["result"]["findings"] == result.findings
    result_table(result, stderr=True)
    assert f"exploded: step {first['step']}: the loss is" in capsys.readouterr().err
    page = write_report(place).read_text()
    assert page.index("The loss exploded") < page.index('id="curves"')
    assert f"Step {first['step']}: the loss is" in page


def test_drtp_says_before_it_begins_which_activations_it_needs(tmp_path):
    """With ReLU it reached 57 to 66 % on MNIST, with a loss in the thousands; with tanh 92 % after as many steps."""
    relu, *_ = trained(tmp_path, rule="drtp", epochs=1).findings
    assert (relu["finding"], relu["step"]) == ("condition", 0)
    assert "relu of layer 1, 2 never does" in relu["text"]
    assert "use tanh" in relu["advice"]


def test_one_layer_is_said_to_be_plain_backpropagation_wherever_the_run_is_read(tmp_path, capsys):
    """``Sequential(Net())``, which a message of ours invites, was called "dfa (aligned)" without a finding."""
    result = trained(tmp_path, model={"hidden": []}, epochs=1)
    (first,) = (found for found in result.findings if found["text"].startswith("one layer: no rule applies"))
    assert "put its parts into the nn.Sequential" in first["advice"]
    assert str(result).startswith("dfa (one layer: no rule applies), 64-10, engine serial\n")
    result_table(result, stderr=True)
    said = " ".join(capsys.readouterr().err.split())
    assert "one layer: no rule applies" in said
    assert "put its parts into" in said
    assert "One layer: no rule applies" in write_report(tmp_path / "run").read_text()


def test_a_layer_that_a_step_did_not_use_has_not_stopped():
    skipped = probe(30, 0.0, 1.0, update_norm=0.0)
    layers = (replace(skipped.layers[0], used=False), *skipped.layers[1:])
    assert found(*losses(2.0, 2.0), replace(skipped, layers=layers)) == []


def test_a_layer_that_is_frozen_has_not_stopped():
    stopped = [LayerAlignment(layer=1, cosine=0, gradient_norm=0, update_norm=0, a=0), *probe(30, 0.2, 1.0).layers[1:]]
    record = replace(probe(30, 0.2, 1.0), layers=tuple(stopped))
    for frozen, expected in ((frozenset(), ["stopped"]), (frozenset({1}), [])):
        watcher = Watcher(steps=100, lr=0.1, constant=2.0, chance=None, frozen=frozen)
        said = [finding.finding for each in (*losses(*[2.0] * 30), record) for finding in watcher.add(each)]
        assert [name for name in said if name == "stopped"] == expected


def test_updates_that_together_raise_the_loss_are_said_with_what_would_help():
    high, against = losses(*[2.0] * 30), replace(probe(30, 0.2, 1.0), dominance=-0.1)
    assert found(*high, against) == [("against", None, 30)]
    assert found(*losses(*[0.1] * 30), against) == []  # a small gradient points anywhere
    said = {finding.finding: str(finding) for finding in findings_of("dfa", *high, against, every=40)}
    assert said["against"] == (
        "step 30: the updates of all layers together raise the loss: dominance is -0.10; feedback has aged: renew it "
        "more often (feedback.renew.every 20), or try a lower rate (optimizer.lr 0.003 or less) or "
        "optimizer.warmup_steps"
    )


def findings_of(rule, *records, every=None):
    """Those of a run by the rule, on five classes, at a rate of 0.01."""
    built = rules.build_rule(recipe(rule=rule, feedback=FeedbackConfig(renew=RenewConfig(every=every))))
    dataset = data.from_arrays((np.eye(12), np.arange(12) % 5), (np.eye(12), np.arange(12) % 5))
    watcher = build_watcher("cross_entropy", dataset, steps=100, lr=0.01, rule=built)
    return [finding for record in records for finding in watcher.add(record)]


@pytest.mark.parametrize(
    ("lr", "optimizer", "lower"),
    [(1e6, "adam", 1e-3), (1e6, "sgd", 1e-2), (0.1, "adamw", 1e-3), (6e-4, "adam", 2e-4), (0.06, "sgd", 0.02)],
)
def test_the_rate_to_try_is_one_that_trains(lr, optimizer, lower):
    """A third of a million was no advice."""
    assert lower_rate(lr, optimizer) == pytest.approx(lower)


def test_a_run_that_ends_exploded_says_so_in_its_result_and_advises_a_rate_that_trains(tmp_path):
    lost = trained(tmp_path / "a", optimizer={"lr": 1e6}, epochs=1)
    assert lost.exploded
    assert "optimizer.lr 0.001 or less" in lost.findings[0]["advice"]
    assert not trained(tmp_path / "b", optimizer={"lr": 1e-3}, epochs=1).exploded
    endless = {"optimizer": {"name": "sgd", "lr": 1e6}, "epochs": 1}
    assert trained(tmp_path / "c", check_finite=False, **endless).exploded
    with pytest.raises(NonFiniteError, match=r"\(optimizer.lr is 1e\+06; try 0.01 or less\)"):
        trained(tmp_path / "d", **endless)


def test_a_run_that_came_back_has_not_ended_exploded():
    watcher = Watcher(steps=99, lr=0.03, constant=LN10, chance=0.1)
    for record in losses(2.4, 2.0, 1e3, 1e3, 1e3):
        watcher.add(record)
    assert watcher.exploded
    for record in losses(2.4, 2.0, 2.0, start=5):
        watcher.add(record)
    assert not watcher.exploded


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (np.full(40, 3), "all 40 training labels are 3, so a constant answer is always right"),
        (np.full((40, 2), 0.5), "all 40 training targets are the same"),
    ],
    ids=["labels", "floats"],
)
def test_data_of_one_answer_are_found_in_the_terminal_and_the_report(tmp_path, capsys, targets, said):
    one = data.from_arrays((np.random.default_rng(0).normal(size=(40, 6)), targets))
    settings = {"model": {"hidden": (5,)}, "epochs": 60, "run_dir": str(tmp_path / "run")}
    settings["loss"] = "cross_entropy" if one.classification else "mse"
    spec = parse_spec({"engine": "serial", "probe": {"every": 5}, **settings})
    result = run(spec, network_for(spec, one), one)[0]
    (finding,) = result.findings  # and none that its loss is no better than that of a constant answer
    assert (finding["finding"], finding["step"]) == ("nothing to learn", 0)
    result_table(result, stderr=True)
    assert f"nothing to learn: {said}" in capsys.readouterr().err
    page = write_report(tmp_path / "run").read_text()
    assert "The data have nothing to learn" in page
    assert f"<p>A{said[1:]}" in page


@pytest.mark.parametrize("rule", ["dfa", "dkp", "fa", "bp"])
def test_the_advice_is_for_what_is_wrong(rule):
    """Aged feedback can be renewed, a dead layer normalised; a rate that is too high is always possible."""
    low, back = losses(*[1.0] * 30), losses(*[2.0] * 30, start=30)
    aged, dead = findings_of(rule, *low, *back, replace(probe(60, 0.9, 1.0, active=0.0), dominance=1.0))
    assert (aged.finding, dead.finding) == ("fell back", "dead")
    renewed = "feedback has aged: renew it (feedback.renew.every 50), or " if rule in ("dfa", "dkp") else ""
    assert aged.advice == f"{renewed}try a lower rate (optimizer.lr 0.003 or less) or optimizer.warmup_steps"
    assert dead.advice.startswith(
        "put a normalisation (BatchNorm, LayerNorm) before its activation, or use LeakyReLU, or try a lower "
    )
