"""Verdicts are earned within groups, with seeds as the units; a pooled figure that says the opposite earns none."""

import math
from statistics import correlation

import pytest

from distfa.errors import SpecError
from distfa.lab.questions import classes, depth, dominance, label_noise
from distfa.lab.questions.asking import answer_question
from distfa.lab.questions.base import QuestionOptions
from distfa.lab.questions.intervals import ahead, over_units, together

RULES = ("fa", "dfa", "dkp", "kp")
COUNTS = (2, 10, 100)


def runs_of_classes(within, *, seeds=3, counts=COUNTS):
    """Aligned starts lie far up and to the right of random ones; ``within(count)`` is the slope inside a start."""
    found = []
    for count in counts:
        for init, (cosine, points) in {"aligned": (0.9, 60.0), "random": (0.2, 20.0)}.items():
            for seed in range(seeds):
                found.append(
                    {"classes": count, "rule": "bp", "init": init, "seed": seed, "alignment": 1, "accuracy": 70}
                )
                for k, rule in enumerate(RULES):
                    noise = 0.1 * (k * (seed + 2) % 3 - 1) + 0.02 * seed
                    mine = {"classes": count, "rule": rule, "init": init, "seed": seed}
                    found.append(
                        {**mine, "alignment": cosine + 0.01 * k, "accuracy": points + within(count) * k + noise}
                    )
    return found


def test_a_gap_between_two_starts_is_no_correlation_within_them():
    """Simpson's paradox: over both starts r is near 1, within each it is near -1."""
    raw = runs_of_classes(lambda count: -1.0)
    others = [run for run in raw if run["rule"] != "bp" and run["classes"] == 100]
    assert correlation([run["alignment"] for run in others], [run["accuracy"] for run in others]) > 0.9
    said = classes.verdict(raw)
    assert "beyond chance, with no number of classes" in said
    assert "aligned starts: r = -0.9" in said or "aligned starts: r = -1.0" in said
    assert "which merely reflects the gap between the starts" in said
    assert "the answer is no: it does not hold within aligned and random starts" in said
    assert "agrees with the claim" not in said


def test_a_correlation_within_both_starts_earns_the_verdict():
    said = classes.verdict(runs_of_classes(lambda count: 1.0))
    assert "beyond chance, with 2, 10, 100 classes" in said
    assert "the answer is yes" in said
    assert "this agrees with the claim" in said


def test_one_start_alone_does_not_earn_it():
    raw = runs_of_classes(lambda count: 1.0)
    for run in raw:
        if run["init"] == "random" and run["rule"] != "bp":
            run["accuracy"] = 40 - run["accuracy"]
    assert "the answer is no: it does not hold within random starts" in classes.verdict(raw)


def test_what_seeds_cannot_tell_from_chance_has_no_answer():
    noisy = runs_of_classes(lambda count: 0.02)
    for run in noisy:
        run["accuracy"] += (run["seed"] == 2) * 9 * (run["rule"] == "fa")
    assert "there is no answer: within one kind of start, 3 seeds cannot distinguish" in classes.verdict(noisy)


def test_classes_without_a_rule_beside_bp_are_refused():
    with pytest.raises(SpecError, match="compares rules other than bp; name three or more, such as bp,fa,dfa,dkp"):
        answer_question("classes", QuestionOptions(rules=("bp",), quick=True))


def test_more_so_with_more_classes_is_answered_too():
    grows = {2: 0.02, 10: 0.1, 100: 1.0}
    assert "yes, and more so with more classes" in classes.verdict(runs_of_classes(grows.get))
    same = "yes, and not shown to be more so with more classes"
    assert same in classes.verdict(runs_of_classes(lambda count: 1.0))


def test_one_seed_earns_nothing():
    assert "With one seed nothing can be distinguished" in classes.verdict(runs_of_classes(lambda count: 1.0, seeds=1))
    assert "With one seed" in dominance.verdict(runs_of_dominance(1.0, seeds=1))
    assert "With one seed" in label_noise.verdict(runs_of_noise({"dfa": (80.0, 90.0)}, seeds=1))


def runs_of_dominance(slope, *, seeds=3):
    """Rules that lie on a line through the origin, whose ranges of steps go with ``slope`` within each run."""
    found = []
    for rate, rule in enumerate(("bp", "fa", "dfa"), 1):
        for seed in range(seeds):
            ranges = [
                {"expected": rate + 0.01 * k, "fell": rate + slope * 0.01 * k + 0.001 * (k * (seed + 1) % 3)}
                for k in range(4)
            ]
            found.append({"rule": rule, "init": "aligned", "seed": seed, "ranges": ranges})
            found[-1] |= {"least": 0.3, "predicted": True, "came": True}
    return found


def test_how_fast_is_judged_within_configurations():
    """Pooled, rules that are fast in both figures make r nearly 1, whatever their runs do."""
    raw = runs_of_dominance(-1.0)
    points = [point for run in raw for point in run["ranges"]]
    assert correlation([point["expected"] for point in points], [point["fell"] for point in points]) > 0.99
    said = dominance.verdict(raw)
    assert "beyond chance, in 0 of 3" in said
    assert "does not everywhere predict how fast" in said
    said = dominance.verdict(runs_of_dominance(1.0))
    assert "beyond chance, in 3 of 3" in said
    assert "So it predicts how fast" in said


def runs_of_noise(figures, *, seeds=3):
    """(rule, init, seed) with (train, test) near these figures; seeds move all rules alike."""
    found = []
    for rule, (given, right) in {"bp": (95.0, 83.0), **figures}.items():
        for seed in range(seeds):
            moved = {"train": given + 3 * seed, "test": right + 3 * seed + 0.1 * (seed == 1)}
            found.append({"rule": rule, "init": "aligned", "seed": seed, **moved})
    return found


def test_wrong_labels_are_judged_seed_by_seed_and_by_the_labels_that_were_learnt():
    """Seeds differ by more than rules do; and a rule that is ahead but learns as many labels keeps none away."""
    said = label_noise.verdict(runs_of_noise({"dfa": (85.0, 84.5), "fa": (96.0, 85.0), "kp": (80.0, 83.2)}))
    assert "while reproducing fewer of the labels they were trained on: dfa aligned (+1.5)" in said
    assert " fa aligned" not in said.partition("seed by seed")[2]
    assert "the answer is yes" in said
    assert "the answer is no" in label_noise.verdict(runs_of_noise({"fa": (96.0, 85.0)}))


def test_being_ahead_of_the_frozen_baseline_by_one_lucky_seed_is_not_being_ahead():
    def row(rule, scores):
        frozen = [{"seed": seed, "accuracy": 50.0} for seed in range(3)]
        over, low, _ = ahead([{"seed": s, "accuracy": a} for s, a in enumerate(scores)], frozen, "accuracy")
        return {"network": "mlp", "layers": 4, "rule": rule, "over": over, "low": low}

    said = depth.verdict([row("fa", (52.0, 52.1, 51.9)), row("dfa", (70.0, 50.0, 49.0))], 3)
    assert "more than a point: fa (+2.0); ahead, but 3 seeds cannot distinguish it from chance: dfa (+6.3)" in said


def test_the_interval_over_units_is_students():
    scipy = pytest.importorskip("scipy.stats")
    for n in (2, 3, 5, 11, 12, 30):
        values = [float(k % 5 + k / 7) for k in range(n)]
        found, expected = over_units(values), scipy.t.interval(0.95, n - 1, *_mean_and_error(values))
        assert found[1:] == pytest.approx(expected, rel=0.02, abs=0.01)
    assert math.isnan(over_units([1.0])[1])
    assert over_units([1.0, math.nan, 3.0])[0] == 2.0


def _mean_and_error(values):
    mean = sum(values) / len(values)
    return mean, (sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values)) ** 0.5


def test_two_points_or_a_figure_that_does_not_vary_have_no_correlation():
    assert math.isnan(together([{"x": 1, "y": 1}, {"x": 2, "y": 2}], "x", "y"))
    assert math.isnan(together([{"x": 1, "y": k} for k in range(5)], "x", "y"))
