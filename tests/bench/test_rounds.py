"""Rounds search for the best number of micro-batches, measure in turn, and hide no failure."""

from itertools import count
from types import SimpleNamespace

from distfa.bench.rounds import Configuration, Rounds
from distfa.errors import BenchError
from distfa.measuring.steady_state import SteadyState


def configuration(family, micro_batches, rates):
    """A configuration whose measurements come out as listed; None fails."""
    given = iter(rates)

    def measure():
        rate = next(given)
        if rate is None:
            raise BenchError("it broke")
        return SimpleNamespace(steady=SteadyState(samples_per_second=rate, cpu_seconds=1.0, busy=0.5, others=0.1))

    return Configuration(family=family, micro_batches=micro_batches, measure=measure, about={"kind": "a"})


def measured(configurations, rounds=3):
    made = Rounds(seed=0, say=lambda line: None)
    chosen = made.search(configurations)
    for number in range(1, rounds + 1):
        made.round(number, chosen)
    return made, chosen


def test_the_best_of_a_family_goes_on_and_the_search_does_not_count():
    made, chosen = measured(
        [
            configuration("a", 1, [900.0]),
            configuration("a", 4, [1000.0, 10.0, 30.0, 20.0]),
            configuration("b", None, [5.0, 7.0, 6.0]),
        ]
    )
    assert [one.name for one in chosen] == ["a, M=4", "b"]
    row = made.row(chosen[0])
    assert (row["samples_per_second"], row["least"], row["most"]) == (20.0, 10.0, 30.0)
    assert (row["configuration"], row["micro_batches"], row["kind"]) == ("a", 4, "a")
    assert made.row(chosen[1])["samples_per_second"] == 6.0
    assert len(made.shots) == 2 + 2 * 3


def test_a_failure_is_told_and_the_others_go_on():
    made, chosen = measured([configuration("a", None, [None, 8.0, None]), configuration("b", None, [None, None, None])])
    assert made.row(chosen[0])["samples_per_second"] == 8.0
    assert made.row(chosen[1]) is None
    assert made.failures.count("a, round 1: it broke") == 1
    assert len(made.failures) == 5


def test_a_family_that_fails_in_the_search_is_left_out():
    made, chosen = measured(
        [configuration("a", 1, [None]), configuration("a", 2, [None]), configuration("b", None, count(1.0))]
    )
    assert [one.family for one in chosen] == ["b"]
    assert sorted(made.failures) == ["a, M=1, search: it broke", "a, M=2, search: it broke"]


def test_every_round_has_its_own_order():
    order = []
    made = Rounds(seed=1, say=lambda line: order.append(line.split(": ")[1]))
    configurations = [configuration(name, None, count(1.0)) for name in "abcdef"]
    for number in (1, 2, 3):
        made.round(number, configurations)
    rounds = [tuple(order[i : i + 6]) for i in (0, 6, 12)]
    assert len(set(rounds)) == 3
    assert all(sorted(one) == list("abcdef") for one in rounds)
