"""Runs that differ in their seed only are one group; a group's line is a mean with a band."""

import math
from pathlib import Path

import pytest

from distfa.pages.plots import Figure, category
from distfa.report.compare import _page
from distfa.report.facts import setting_facts
from distfa.report.groups import group_seeds
from distfa.report.records import Run
from distfa.report.training import draw_mean
from distfa.settings import RunSpec


def made(name, *, accuracy=0.5, **spec):
    result = {"test_accuracy": accuracy, "test_loss": 1 - accuracy, "steps": 9}
    return Run(path=Path(name), about={"status": "finished", "result": result}, spec={"rule": "fa", "seed": 0, **spec})


def of_seeds(rule, *accuracies):
    return [made(f"{rule}-{seed}", accuracy=value, rule=rule, seed=seed) for seed, value in enumerate(accuracies)]


def conclusions(*runs):
    return list(_page(runs).parts[0].said)


def test_seeds_of_one_setting_are_one_group_and_the_setting_is_its_name():
    groups = group_seeds([*of_seeds("fa", 0.1, 0.2), *of_seeds("dfa", 0.3, 0.4)])
    assert [(group.name, len(group.runs)) for group in groups] == [("rule fa", 2), ("rule dfa", 2)]
    assert groups[0].mean("test_accuracy") == pytest.approx(0.15)  # a float sum
    assert [group.name for group in group_seeds(of_seeds("fa", 0.1, 0.2, 0.3))] == ["3 seeds"]


def test_two_runs_of_one_seed_are_no_sample_and_stay_apart():
    again = [made("one"), made("two")]
    assert [group.name for group in group_seeds(again)] == ["one", "two"]


def test_the_means_of_seeds_are_compared_and_an_overlap_of_their_ranges_is_said():
    _, best, overlap = conclusions(*of_seeds("fa", 0.90, 0.94), *of_seeds("dfa", 0.89, 0.93))
    assert best == (
        "Best on the test set: rule fa, 92.00% on average over 2 seeds (90.00% to 94.00%); "
        "next: rule dfa, 91.00% on average over 2 seeds (89.00% to 93.00%)."
    )
    assert overlap == "The seeds of rule fa and rule dfa overlap: the difference between them may be chance."
    assert len(conclusions(*of_seeds("fa", 0.90, 0.94), *of_seeds("dfa", 0.7, 0.8))) == 2  # ranges apart


def test_the_first_table_has_a_row_per_setting_and_the_last_one_a_row_per_run():
    parts = _page([*of_seeds("fa", 0.90, 0.94), *of_seeds("dfa", 0.7, 0.8)]).parts
    means, runs = parts[1], parts[-1]
    assert list(means.columns)[:5] == ["rule", "seeds", "test accuracy", "least", "most"]
    assert [means.cell(means.rows[1], key) for key in list(means.columns)[:5]] == [
        "dfa",
        "2",
        "75.00%",
        "70.00%",
        "80.00%",
    ]
    assert list(runs.columns)[:2] == ["rule", "seed"]
    assert len(runs.rows) == 4


def test_a_figure_that_is_not_finite_is_said_in_words_in_tables_and_sentences():
    page = _page([made("one", accuracy=math.nan, rule="fa"), made("two", accuracy=0.9, rule="dfa")])
    shown = page.html("plotly.js").partition("<body>")[2].partition("</main>")[0]
    assert "not finite" in shown
    assert "nan" not in shown
    assert page.parts[0].said[1] == "rule dfa on the test set: 90.00%. There is nothing to compare it with."


def test_several_seeds_are_a_mean_and_a_band_over_the_steps_that_all_have():
    figure = Figure("f", "")
    figure.panels([""], "")
    draw_mean(figure, [[(0, 1.0), (1, 2.0), (2, 9.0)], [(0, 3.0), (1, 6.0)]], "fa", category(1))
    band, line = figure.traces
    assert list(zip(line["x"], line["y"], strict=True)) == [(0, 2.0), (1, 4.0)]
    assert list(zip(band["x"], band["y"], strict=True)) == [(0, 1.0), (1, 2.0), (1, 6.0), (0, 3.0)]
    assert band["fillcolor"] == line["line"]["color"] == category(1)["hue"]


def test_settings_are_those_that_are_asked_for_and_those_not_at_their_default():
    spec = RunSpec.model_validate({"optimizer": {"momentum": 0.5}, "ray": {"max_recoveries": 7}, "run_dir": "here"})
    facts = setting_facts(Run(path=Path("run"), about={}, spec=spec.model_dump(mode="json")))
    assert facts["optimizer.momentum"] == "0.5"
    assert facts["rule"] == "dfa"
    assert not facts.keys() & {"run_dir", "ray.max_recoveries", "optimizer.nesterov"}
