"""Where a layer will run is asked anew where Ray has moved its place; a node that never answers is named."""

from concurrent.futures import Future

import pytest

from distfa.errors import ClusterError, LayerLost
from distfa.runtime.ray import whereabouts

ONE, TWO, THREE = ("a1", "10.0.0.1"), ("b2", "10.0.0.2"), ("c3", "10.0.0.3")
DEAF = {TWO}  # nodes that take questions and never answer


class Places:
    """Reservations of two layers, which lie where ``course`` says, look by look, and then stay."""

    def __init__(self, *course):
        self.course, self.now, self.asked = list(course), {}, []

    def lie(self):
        if self.course:
            self.now = self.course.pop(0)
        return self.now

    def ask(self, layer):
        self.asked.append((layer, self.now.get(layer)))
        answer = Future()
        if (spot := self.now.get(layer)) is not None and spot not in DEAF:
            answer.set_result((*spot, {"layer": str(layer)}))
        return answer


TWO_LAYERS = {1: "layer 1", 2: "layer 2"}


def found(places, limit_seconds=60.0):
    return whereabouts.locate_workers(TWO_LAYERS, places.ask, places.lie, limit_seconds)


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    monkeypatch.setattr(whereabouts, "_LOOK_SECONDS", 0.01)


def test_a_layer_is_asked_once_where_its_node_answers():
    places = Places({1: ONE, 2: THREE})
    assert found(places) == {1: (*ONE, {"layer": "1"}), 2: (*THREE, {"layer": "2"})}
    assert places.asked == [(1, ONE), (2, THREE)]


def test_a_layer_whose_node_is_given_up_is_asked_anew_where_its_place_lies_then():
    both = {1: ONE, 2: TWO}
    places = Places(both, both, {1: ONE}, {1: ONE}, {1: ONE, 2: THREE})
    assert found(places)[2] == (*THREE, {"layer": "2"})
    assert places.asked == [(1, ONE), (2, TWO), (2, THREE)]


def test_an_answer_from_a_node_that_was_given_up_meanwhile_does_not_count():
    places = Places({1: ONE, 2: TWO}, {1: THREE, 2: TWO}, {1: THREE, 2: ONE})
    assert found(places) == {1: (*THREE, {"layer": "1"}), 2: (*ONE, {"layer": "2"})}


def test_a_node_that_never_answers_is_named_at_the_deadline():
    with pytest.raises(LayerLost, match=r"layer 2 did not start .* within 0 s: node 10\.0\.0\.2 does not answer, but"):
        found(Places({1: ONE, 2: TWO}), 0.05)


@pytest.mark.parametrize(
    ("left", "says"),
    [
        ({1: ONE}, r"; resume with --set ray\.workers=1, which changes no result, or bring a node back and resume"),
        ({}, r" for it; bring a node back and resume"),
    ],
)
def test_a_node_lost_for_good_ends_the_run_at_the_deadline_and_says_how_few_workers_are_left(left, says):
    """It was tried anew as often as ray.max_recoveries says, with the whole wait each time."""
    why = r"layer [12] did not .*: Ray has given up on its node and finds no other with room"
    with pytest.raises(ClusterError, match=why + ".*" + says):
        found(Places({1: ONE, 2: TWO}, left), 0.05)


def test_what_goes_wrong_at_a_layer_is_told_at_once_though_another_is_silent():
    broken, silent = Future(), Future()
    broken.set_exception(LayerLost("its node died"))
    with pytest.raises(LayerLost, match="layer 2: its node died"):
        whereabouts.locate_workers(
            {1: "layer 1", 2: "layer 2"}, {1: silent, 2: broken}.get, lambda: {1: TWO, 2: ONE}, 60.0
        )
