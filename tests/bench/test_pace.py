"""Where a benchmark is, in words."""

import pytest

from distfa.bench import pace


@pytest.mark.parametrize(
    ("ahead", "expected"),
    [
        (False, ["a (1 of 3, about 20 s left)", "b (2 of 3, about 10 s left)", "c (3 of 3)"]),
        (True, ["a (1 of 3)", "b (2 of 3, about 40 s left)", "c (3 of 3, about 15 s left)"]),
    ],
)
def test_the_time_left_is_that_of_the_parts_so_far(ahead, expected, monkeypatch):
    clock = iter([100.0, 110.0, 120.0, 130.0] if not ahead else [100.0, 100.0, 120.0, 130.0])
    monkeypatch.setattr(pace.time, "monotonic", lambda: next(clock))
    said: list[str] = []
    say = pace.paced(said.append, 3, ahead=ahead)
    for line in "abc":
        say(line)
    assert said == expected


@pytest.mark.parametrize(("seconds", "words"), [(4.4, "4 s"), (89, "89 s"), (150, "2 min"), (9000, "2.5 h")])
def test_a_duration_is_rough(seconds, words):
    assert pace.duration(seconds) == words
