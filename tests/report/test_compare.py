"""Pages open with the result in words, and several runs stand on one page."""

import json
import re
from dataclasses import replace

import pytest
from commands import here

from distfa.errors import RunDirError
from distfa.report import write_comparison, write_report
from distfa.report.compare import _sentences
from distfa.report.findings import sentences
from distfa.report.groups import Seeds, differences, group_seeds
from distfa.report.records import read_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    common = ("--engine", "serial", "--epochs", "3", "--set", "data.limit=300", "--set", "probe.every=5")
    for rule in ("dfa", "bp"):
        here("train", *common, "--rule", rule, "--run-dir", rule, cwd=home)
    return [home / "dfa", home / "bp"]


def test_a_page_opens_with_the_result_and_a_sentence_per_finding(runs):
    run = read_run(runs[0])
    said = sentences(run)
    assert said[0].startswith(f"It gets {run.result['test_accuracy']:.2%} of the test set right after 30 steps")
    assert said[1].startswith("It took")
    assert re.match(r"At step 25 its updates have a cosine of 0\.\d\d with the true gradient \(layer \d is", said[2])
    assert said[-1] == f"The conservation law held in all {run.entries} ledger entries."
    page = write_report(runs[0]).read_text("utf-8")
    assert page.index("In short") < page.index('id="curves"')
    assert "prefers-color-scheme: dark" in page


def test_a_run_by_skip_claims_no_law_and_is_evaluated_in_its_own_layers(tmp_path):
    small = ("--model", "preact_resnet", "--set", "model.depth=1", "--set", "model.width=2", "--set", "max_steps=2")
    shown = here("train", "--engine", "serial", "--rule", "skip", *small, "--run-dir", "run", cwd=tmp_path)
    assert re.search(r"(\d+) entries, the books balance in all", shown.stdout)
    told = json.loads((tmp_path / "run" / "run.json").read_text())["result"]
    assert (
        sentences(read_run(tmp_path / "run"))[-1]
        == f"The books balance in all {told['ledger']['entries']} ledger entries."
    )
    found = json.loads(here("eval", "run", "--json", cwd=tmp_path).stdout)
    assert (found["loss"], found["accuracy"]) == pytest.approx((told["test_loss"], told["test_accuracy"]))


def test_several_runs_are_compared_by_what_they_differ_in(runs, tmp_path):
    found = [read_run(path) for path in runs]
    assert differences(found) == ["rule"]
    done = here("report", *runs, "--out", tmp_path / "both.html", cwd=tmp_path)
    assert done.stdout.strip() == str(tmp_path / "both.html")
    page = (tmp_path / "both.html").read_text("utf-8")
    assert "They differ in rule." in page
    best = max(found, key=lambda run: run.result["test_accuracy"])
    assert f"Best on the test set: rule {best.rule}, {best.result['test_accuracy']:.2%}; next: rule" in page
    assert "Some setting has only one seed: small differences mean nothing" in page
    for run in found:
        assert f"<td>{run.result['test_loss']:.4f}</td>" in page
    assert page.count('"name":"rule dfa"') == 3  # loss, accuracy, alignment
    with pytest.raises(RunDirError, match="at least two runs"):
        write_comparison(runs[:1])
    with pytest.raises(RunDirError, match="not a run directory"):
        write_comparison([runs[0], tmp_path])


def test_runs_that_are_equally_good_are_both_named(runs):
    run = read_run(runs[0])
    said = _sentences([Seeds(name=name, runs=[run]) for name in ("one", "two")])
    assert said[1].startswith("Best on the test set, and equal: one; two: ")


def test_runs_on_other_data_have_no_best(runs, tmp_path):
    """Their figures cannot be compared, and were."""
    found = [read_run(path) for path in runs]
    found[1].about["data_digest"] = "another"
    said = " ".join(_sentences(group_seeds(found)))
    assert "not trained on the same data" in said
    assert "Best" not in said


def test_a_setting_with_several_seeds_needs_no_note(runs):
    run = read_run(runs[0])
    worse = {**run.about, "result": {**run.result, "test_accuracy": 0.1}}
    others = [
        replace(run, spec={**run.spec, "seed": seed, "rule": rule}, about=about)
        for rule, about in (("dfa", run.about), ("fa", worse))
        for seed in (1, 2)
    ]
    assert not any("only one seed" in said for said in _sentences(group_seeds([run, *others])))
    assert any("only one seed" in said for said in _sentences(group_seeds([run, *others[1:3]])))
