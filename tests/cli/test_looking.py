"""``distfa rules``, ``watch``, ``report`` and ``spec``: commands that show things."""

import json
import re
from dataclasses import asdict

import pytest
import yaml
from commands import here
from queries import queried

from distfa.core.base.recipe import FeedbackConfig
from distfa.core.rules import RULES
from distfa.run.recorder import Recorder

pytestmark = pytest.mark.usefixtures("shared_ray")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run on Ray with rates, which it takes more often than once a second."""
    where = tmp_path_factory.mktemp("runs")
    options = ["--rule", "fa", "--hidden", "16", "--epochs", "5", "--set", "ledger.every=10", "--run-dir", "run"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder._traffic, "__kwdefaults__", {"every": 0.05})
        here("train", *options, cwd=where)
    return where / "run"


def test_rules_lists_every_rule_with_its_cost_and_potential(tmp_path):
    table = json.loads(here("rules", "--json", cwd=tmp_path).stdout)
    assert list(table) == list(RULES)
    assert table["drtp"]["potential"] == "none, so no conservation law"
    assert table["kp"]["numbers sent down"] == "d_{l+1}"
    text = here("rules", cwd=tmp_path).stdout
    assert all(name in text for name in RULES)


def test_watch_shows_the_stack_with_the_law_alignment_and_rates(run):
    out = here("watch", run, "--once", cwd=run).stdout
    assert re.search(r"fa \(aligned\), finished, step 224, epoch 5, loss 0\.\d+", out)
    assert re.search(r"2 +16 to 10 +\d+% +\+1\.00", out)
    assert len(re.findall(r"\d+\.\d° +holds \(-?\de-\d\d\)", out)) == 1
    assert "B/s" in out


def test_a_run_exports_every_metric_that_the_example_dashboard_and_alerts_ask_for(run):
    text = here("metrics", run, cwd=run).stdout
    assert queried("distfa_") <= set(re.findall(r"^(distfa_\w+)\{", text, flags=re.M))


def test_report_writes_one_page_and_says_where(run):
    out = here("report", run, cwd=run).stdout.strip()
    assert out.endswith("report.html")
    assert "<html" in (run / "report.html").read_text()[:200]


def test_metrics_hold_every_kind_of_record_and_the_result_sums_them_up(run):
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    count = {kind: sum(r["kind"] == kind for r in records) for kind in ("step", "eval", "ledger", "probe", "traffic")}
    assert count["ledger"] == 23
    assert count["probe"] == 3
    assert count["eval"] == 5
    assert count["traffic"] >= 2
    result = json.loads((run / "run.json").read_text())["result"]
    assert result["ledger"] == {"entries": 23, "signals_compared": 0, "violations": 0, "first_violation": None}
    assert result["alignment"]["step"] == 200
    assert result["facts"]["bytes_apart"]["probe"] > 0


def test_a_run_with_nothing_there_is_refused(tmp_path):
    for command in (("watch", "--wait", 1), ("report",)):
        done = here(*command, "nowhere", cwd=tmp_path, check=False)
        assert (done.returncode, "nowhere is not a run directory" in done.stderr) == (2, True)


def test_spec_prints_a_whole_spec_that_train_takes(tmp_path):
    text = here("spec", "--set", "rule=fa", "--set", "feedback.rank=3", cwd=tmp_path).stdout
    assert yaml.safe_load(text)["feedback"] == asdict(FeedbackConfig(rank=3))
    done = here("spec", "--set", "rule=kp", "--set", "feedback.rank=3", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "feedback.rank works only with rule fa, dfa, not with rule 'kp'" in done.stderr
