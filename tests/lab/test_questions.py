"""Questions: the arithmetic by hand, small runs of each, and pages that can be read."""

import json
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest
from commands import here

from distfa import data
from distfa.core.rules import RULES
from distfa.errors import SpecError, UsageError
from distfa.lab.questions import conservation, depth, training
from distfa.lab.questions.asking import QUESTIONS, answer_question, save
from distfa.lab.questions.base import Answer, QuestionOptions
from distfa.lab.questions.classes import first_classes
from distfa.lab.questions.dominance import _measure
from distfa.lab.questions.drawing import svg
from distfa.lab.questions.intervals import together
from distfa.lab.questions.label_noise import mislabel
from distfa.lab.questions.training import record_training
from distfa.pages.plots import Figure, colour

SVG = "{http://www.w3.org/2000/svg}"
SMALL = {"model": {"hidden": (16,)}, "max_steps": 6, "batch_size": 64}


def test_a_correlation_of_two_figures_is_numpys():
    x, y = [1.0, 2.0, 4.0, 3.0, 7.0], [2.0, 1.0, 5.0, 4.0, 5.0]
    points = [{"x": a, "y": b} for a, b in zip(x, y, strict=True)]
    assert together(points, "x", "y") == pytest.approx(np.corrcoef(x, y)[0, 1])


def test_the_first_classes_and_no_others():
    whole = data.load("digits")
    some = first_classes(whole, 3)
    assert set(some.train_y) == set(some.test_y) == {0, 1, 2}
    assert some.outputs == 3
    assert (some.train_x == whole.train_x[whole.train_y < 3]).all()


def test_a_fifth_of_the_labels_are_wrong_and_all_of_those_are_another_class():
    whole = data.load("digits")
    noisy = mislabel(whole, 0)
    assert (noisy.train_y != whole.train_y).sum() == round(0.2 * len(whole.train_y))
    assert set(noisy.train_y) == set(range(10))
    assert (noisy.test_y == whole.test_y).all()
    assert (mislabel(whole, 0).train_y == noisy.train_y).all()
    assert (mislabel(whole, 1).train_y != noisy.train_y).any()


def test_the_sides_of_the_law_part_by_the_drift_of_the_ledger():
    on = data.load("digits")
    entries = record_training({**SMALL, "dtype": "float64", "ledger": {"every": 1}, "rule": "dfa"}, on).ledger
    sides = conservation._sides(entries)
    assert [step for step, _, _ in sides] == list(range(6))
    step, incoming, potential = sides[-1]
    mine = [entry for entry in entries if entry.step == step]
    start = [entry for entry in entries if entry.step == 0]
    assert incoming == pytest.approx(sum(e.incoming for e in mine) - sum(e.incoming for e in start))
    grown = sum(e.potential for e in mine) - sum(e.potential - e.change + e.change for e in start)
    lost = sum(e.change for e in start)  # of the first step, whose start no entry shows
    assert potential == pytest.approx(grown - lost, rel=1e-6)


def test_full_batch_descent_falls_as_the_probes_predict():
    on = data.load("digits")
    settings = {"batch_size": len(on.train_x), "max_steps": 40, "optimizer": {"name": "sgd", "lr": 0.02}}
    done = record_training({**SMALL, **settings, "probe": {"every": 1}, "rule": "fa"}, on)
    found = _measure(done.steps, done.probes, diverged=False)
    assert found["predicted"]
    assert len(found["ranges"]) == 4
    for point in found["ranges"]:
        assert point["fell"] == pytest.approx(point["expected"], rel=0.1)


def test_frozen_layers_stay_and_only_the_output_learns():
    on = data.load("digits")
    frozen, whole = (depth._run(on, "mlp", 4, rule, 0, 30)["accuracy"] for rule in (depth.FROZEN, "bp"))
    assert 10 < frozen < whole


def test_a_drawing_is_xml_with_every_point_and_name():
    figure = Figure("f", "T < U")
    figure.panels(["left <b>", "right"], "", columns=2)
    figure.line([(1, 0.5), (2, None), (3, 2.0)], "a & b", colour(1, 12))  # beyond the palette
    figure.line([(0, 1.0), (1, 2.0)], "c", "#000000", panel=1)
    root = ElementTree.fromstring(svg(figure))
    assert {"T < U", "left <b>", "a & b", "c"} <= {node.text for node in root.iter() if node.text}
    assert len(root.findall(f".//{SVG}g[@clip-path]/{SVG}use")) == 4  # the points; ticks have no clip-path
    assert svg(figure) == svg(replace(figure, see="another"))
    figure.traces.pop()
    figure.bars(["one", "two"], [3.0, 4.0], "d", "#D1001F", panel=1, showlegend=False)
    root = ElementTree.fromstring(svg(figure))
    drawn = [path for path in root.iter(f"{SVG}path") if path.get("clip-path")]
    assert sum("#d1001f" in path.get("style", "") for path in drawn) == 2
    assert {"one", "two", "3.0", "4.0"} <= {node.text for node in root.iter() if node.text}


def test_without_matplotlib_nothing_is_trained_and_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UsageError, match=r"pip install 'distfa\[lab\]'"):
        answer_question("depth", QuestionOptions(rules=("bp",)), say=lambda line: pytest.fail(line))


def test_an_answer_is_saved_as_figures_and_pages(tmp_path):
    question, answer = answer_question("conservation", QuestionOptions(rules=("bp", "drtp"), seeds=1, quick=True))
    assert [(row["network"], row["rule"]) for row in answer.rows] == [("mlp", "bp"), ("conv", "bp")]  # drtp has no law
    assert all(row["residual"] < 1e-12 and row["half"] < row["drift"] for row in answer.rows)
    assert "clearly less in 2 of 2 runs" in answer.verdict
    page = save(question, answer, "distfa experiment conservation", tmp_path / "new")
    names = {"conservation.html", "conservation.json", "conservation.md", "conservation-sides.svg"}
    assert {path.name for path in page.parent.iterdir()} == names
    kept = json.loads((tmp_path / "new" / "conservation.json").read_text())
    assert kept["verdict"] == answer.verdict
    assert len(kept["raw"][0]["sides"]) == 40
    assert answer.verdict in (tmp_path / "new" / "conservation.md").read_text()


def test_no_part_of_an_answer_is_taken_as_markup(tmp_path):
    """A question's page escaped nothing of its table and headings, where rules and data sets are named by the user."""
    figure = Figure("f", "<b>1</b>").without("<b>2</b>")
    texts = {"columns": {"a": "<b>4</b>"}, "verdict": "<b>5</b>", "budget": "<b>6</b>"}
    answer = Answer(rows=[{"a": "<b>3</b>"}], figures=[figure], raw=[], **texts)
    page = save(replace(QUESTIONS["depth"], title="<b>7</b>", claim="<b>8</b>"), answer, "<b>9</b>", tmp_path)
    shown = page.read_text("utf-8").partition("<body>")[2].partition("</main>")[0]
    assert "<b>" not in shown
    assert {n for n in range(1, 10) if f"&lt;b&gt;{n}&lt;/b&gt;" in shown} == {*range(1, 10)}


def test_a_renewed_rule_is_asked_by_its_word_and_keeps_the_questions_own_settings(monkeypatch):
    kept = []
    monkeypatch.setattr(training, "_train", lambda task: kept.append(task.recipe.feedback))
    training.record_training({"rule": "dkp@50", "feedback": {"decay": 0.0}}, data.load("digits"))
    assert (kept[0].renew.every, kept[0].decay) == (50, 0.0)
    assert training.rule_of("dkp@50") is RULES["dkp"]


def test_an_unknown_question_is_named_with_the_nearest():
    with pytest.raises(SpecError, match=r"is not one of conservation, .*did you mean 'depth'"):
        answer_question("dept", QuestionOptions(rules=("bp",)))


@pytest.mark.slow
@pytest.mark.parametrize("name", QUESTIONS)
def test_every_question_is_answered_quickly_from_the_command_line(name, tmp_path):
    done = here("experiment", name, "--quick", "--seeds", "1", cwd=tmp_path)
    assert "this run: " in done.stdout
    assert (tmp_path / "experiments" / f"{name}.html").exists()
