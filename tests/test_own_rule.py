"""A rule of one's own: the page's code on Ray, from a file and as an object, and what is said of one that is wrong."""

import re
import sys
from pathlib import Path

import pytest
import torch
from commands import here

import distfa
from distfa.core.rules import RULES, HopRule
from distfa.errors import CheckpointError, ModelError, SpecError
from distfa.testing import check_rule

PAGE = Path(__file__).parents[1] / "docs/how-to/own-rule.md"
RULE, SCRIPT = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.S)[:2]
SMALL = ("--set", "data.limit=64", "--epochs", "1", "--engine", "serial")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The user's folder, with the page's file in it; her modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*(entry for entry in sys.path if entry), str(tmp_path)])
    (tmp_path / "my_rules.py").write_text(RULE)
    yield tmp_path
    sys.modules.pop("my_rules", None)
    RULES.forget()


@pytest.mark.usefixtures("shared_ray")
def test_the_pages_rule_trains_on_ray_as_in_one_process(folder, capsys):
    lines = SCRIPT.count("\n")
    assert RULE.count("\n") <= 30
    assert lines <= 15
    found = {}
    for engine in ("ray", "serial"):
        code = SCRIPT if engine == "ray" else SCRIPT.replace("epochs=5)", 'epochs=5, engine="serial")')
        exec(compile(code, str(PAGE), "exec"), found.setdefault(engine, {}))
    ray, serial = found["ray"], found["serial"]
    for name, weight in ray["model"].state_dict().items():
        assert torch.equal(weight, serial["model"].state_dict()[name]), name
    assert ray["result"].engine == "ray"
    assert ray["result"].test_loss == serial["result"].test_loss
    assert ray["result"].rule == "my_rules:Sparse"
    assert ray["result"].test_accuracy > 0.9
    assert ray["result"].ledger["entries"] == 0  # no potential, no law


def test_the_command_line_takes_it_by_its_name(folder):
    assert "sparse(B_l)" in here("rules", "my_rules:Sparse", cwd=folder).stdout
    done = here("train", "--rule", "my_rules:Sparse", *SMALL, "--set", "probe.every=2", "--run-dir", "run", cwd=folder)
    assert "my_rules:Sparse (aligned)" in done.stdout
    assert "rule: my_rules:Sparse" in (folder / "run/spec.yaml").read_text()
    here("report", "run", cwd=folder)
    assert "has no potential, so it has no conservation law" in (folder / "run/report.html").read_text()
    (folder / "my_rules.py").unlink()
    sys.modules.pop("my_rules")
    RULES.forget()
    assert "accuracy" in here("eval", "run", cwd=folder).stdout  # which needs no rule


@pytest.mark.parametrize(
    ("rule", "text", "error", "message"),
    [
        ("my_rules:Spars", "", SpecError, "has no name 'Spars'; did you mean 'Sparse'"),
        ("your_rules:Sparse", "", SpecError, "rule 'your_rules:Sparse': there is no module 'your_rules'; run in its"),
        ("my_rules:sparse", "", SpecError, "a rule is a class that derives from distfa.DirectRule"),
        ("my_rules:Bare", "class Bare(distfa.Rule): pass", SpecError, r"without emit\(\), origin\(\), shape\(\)"),
        ("my_rules:Sparse", "1/0", ModelError, "importing my_rules raised ZeroDivisionError"),
        ("dfaa", "", SpecError, "did you mean 'dfa'\\?; your own is package.module:name"),
        (
            "my_rules:Wide",
            "class Wide(distfa.DirectRule):\n  def teacher(self, b): return torch.ones(3, 3)",
            SpecError,
            r"teacher\(1\) has shape \(3, 3\); it must have \(10, 128\)",
        ),
        (
            "my_rules:Down",
            "class Down(distfa.DirectRule):\n  def origin(self, b): return b",
            SpecError,
            r"origin\(1\) is 1; it must be a layer above, 2 to 3, or None",
        ),
        (
            "my_rules:Long",
            "class Long(distfa.HopRule):\n  def shape(self, b): return 'x'",
            SpecError,
            r"shape\(1\) is 'x'; it must be a tuple of whole numbers above 0",
        ),
        (
            "my_rules:Named",
            "class Named(distfa.DirectRule):\n  def __init__(self, recipe, name): pass",
            SpecError,
            "fails as it is made, with the recipe as its only argument: TypeError",
        ),
    ],
)
def test_what_is_wrong_with_it_is_said_before_the_start(folder, rule, text, error, message):
    (folder / "my_rules.py").write_text(f"{RULE}\n{text}\n")
    done = here("train", "--rule", rule, *SMALL, cwd=folder, check=False)
    assert done.returncode == error.exit_code
    assert re.search(message, " ".join(done.stderr.split())), done.stderr
    assert not list(folder.glob("runs/*"))


def test_a_key_that_it_does_not_take_is_refused(folder):
    done = here("train", "--rule", "my_rules:Sparse", *SMALL, "--set", "feedback.rank=2", cwd=folder, check=False)
    assert "feedback.rank works only with rule" in done.stderr


def test_a_run_is_not_resumed_with_other_code(folder):
    def trainer():
        from my_rules import Sparse

        return distfa.Trainer(torch.nn.Sequential(torch.nn.Linear(64, 10)), rule=Sparse, engine="serial", epochs=2)

    class Stop(distfa.Callback):
        def on_epoch(self, at):
            raise KeyboardInterrupt

    first = trainer()
    first._callbacks = [Stop()]
    with pytest.raises(KeyboardInterrupt):
        first.fit(distfa.data.load("digits", limit=64))
    (run,) = folder.glob("runs/*-Sparse-digits")
    sys.modules.pop("my_rules")
    (folder / "my_rules.py").write_text(RULE.replace("outputs=2", "outputs=3"))
    with pytest.raises(CheckpointError, match="settings of rule my_rules:Sparse have changed since"):
        trainer().fit(distfa.data.load("digits", limit=64), resume=run)
    sys.modules.pop("my_rules")
    (folder / "my_rules.py").write_text(f"# a remark, which computes nothing\n{RULE}")
    assert trainer().fit(distfa.data.load("digits", limit=64), resume=run).steps == 4


class Undrawn(distfa.DirectRule):
    """Draws without a seed, so that no two processes agree."""

    def teacher(self, boundary):
        return torch.randn_like(self.direct_feedback(boundary))


class Boastful(HopRule):
    """Says that it sends less than it does."""

    potential = "none"

    def width(self, boundary):
        return 1


class Lawless(HopRule):
    """Claims a law whose potential has another gradient than its field."""

    potential = "half of what it should be"

    def phi(self, weight, fixed_feedback):
        return weight.square().sum(0) / 4


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Undrawn, "workers trained another .* than the serial engine, .* apart; whatever the rule draws"),
        (Boastful, "declares .* bytes down across boundary 1, but"),
        (Lawless, "field is not the gradient of phi|boundary 1"),
    ],
)
def test_the_kit_finds_what_a_rule_breaks(rule, message):
    with pytest.raises(AssertionError, match=message):
        check_rule(rule)


def test_the_kit_passes_rules_of_both_kinds():
    check_rule("kp")
