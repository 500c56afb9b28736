"""``distfa bench books``: the faults it plants are seen where they are, and drift follows the rate."""

from distfa import data
from distfa.bench import books
from distfa.settings import parse_spec

DIGITS = data.load("digits")


def spec(rule, *hidden):
    return parse_spec(
        {
            "rule": rule,
            "model": {"hidden": hidden},
            "optimizer": {"lr": 3e-4},
            "epochs": 10**6,
            "max_steps": 12,
            "engine": "serial",
        }
    )


def test_cost_compares_runs_with_and_without_books():
    outcome = books.measure_cost([spec("fa", 12, 7), spec("bp", 12, 7)], DIGITS, rounds=2, say=print)
    assert [row["rule"] for row in outcome.rows] == ["fa", "bp"]
    assert len(outcome.raw) == 4
    assert all(row["least"] <= row["ratio"] <= row["most"] for row in outcome.rows)


def test_faults_are_seen_at_their_boundary_and_only_where_the_law_ties_two_layers():
    outcome = books.measure_faults(spec("fa", 12, 7), DIGITS, print)
    assert [(row["boundary"], row["direction"]) for row in outcome.rows] == [
        (1, "up"),
        (1, "down"),
        (2, "up"),
        (2, "down"),
    ]
    assert any(row["largest"] is not None and row["largest"] < 3 for row in outcome.rows)
    assert outcome.notes[0].endswith("claimed a fault: 0")
    local = books.measure_faults(spec("kp", 12, 7), DIGITS, print)
    assert all(row["largest"] is row["middling"] is None for row in local.rows)


def test_drift_halves_with_the_learning_rate():
    few = data.load("digits", limit=60)
    outcome = books.measure_drift([spec("fa", 12, 7)], few, rates=(0.02, 0.01, 0.005), total_time=1.0, say=print)
    assert [row["steps"] for row in outcome.rows] == [50, 100, 200]
    assert outcome.rows[0]["ratio"] is None
    assert all(1.8 < row["ratio"] < 2.2 for row in outcome.rows[1:])
