"""``distfa doctor`` names what differs between nodes, and which of them cannot reach each other."""

import socket

from distfa.cli.doctor import _compare, _each, _links
from distfa.runtime.ray.inspection import LinkReport, NodeReport, inspector, pairs_of

FACTS = {"python": "3.11.7", "torch": "2.13.0"}


def node(address, **changes):
    return NodeReport(address=address, **{"facts": FACTS, **changes})


def test_nodes_that_are_the_same_are_said_to_be_and_one_alone_is_not_compared():
    assert [found.text for found in _compare([node("a"), node("b")])] == ["all nodes have the same versions and time"]
    assert _compare([node("a")]) == []


def test_a_version_that_differs_stops_a_run_and_names_who_has_which():
    (found,) = _compare([node("a"), node("b", facts=FACTS | {"torch": "2.12.1"}), node("c")])
    assert not found.good
    assert found.text == "nodes differ in torch: 2.13.0 on a, c; 2.12.1 on b"


def test_other_gpus_and_a_clock_that_is_off_are_warnings_unless_the_question_took_too_long_to_tell():
    gpus, clock = _compare([node("a", gpus=["H200"]), node("b", clock_seconds=-2.5)])
    assert gpus.good
    assert clock.good
    assert gpus.text == "nodes differ in GPUs: H200 on a; none on b"
    assert clock.text == "the clock of node b is 2.5 s behind this machine's"
    assert clock.fix
    assert _compare([node("a", clock_seconds=2.5, clock_error_seconds=2.0)]) == []


def test_a_node_that_does_not_answer_is_named_and_compared_with_none():
    silent = node("b", facts={}, silent="it did not answer within 60 s")
    assert [(found.good, found.text) for found in _each([node("a"), silent])] == [
        (True, "node a: python 3.11.7, torch 2.13.0, GPUs: none"),
        (False, "node b: it did not answer within 60 s"),
    ]
    assert _compare([node("a"), silent]) == []


def test_links_that_are_closed_are_named_and_the_slowest_open_one_is_timed():
    slow = LinkReport(source="a", target="b", seconds=0.001, bytes_per_second=1e6)
    fast = LinkReport(source="b", target="a", seconds=0.001, bytes_per_second=1e9)
    closed = LinkReport(source="a", target="c", refused="timed out")
    refused, timed = _links([slow, fast, closed])
    assert (refused.good, refused.text) == (False, "node a cannot reach a port of node c: timed out")
    assert timed.text == "2 links between nodes: the slowest, a to b, carries 1.0 MB/s and connects in 1.0 ms"


def test_few_nodes_try_every_link_and_many_a_ring():
    assert pairs_of(["a", "b"]) == [("a", "b"), ("b", "a")]
    many = [str(number) for number in range(10)]
    found = pairs_of(many)
    assert len(set(found)) == len(found) == 20
    assert {source for source, _ in found} == {target for _, target in found} == set(many)


def test_an_inspector_sends_to_another_and_says_why_it_cannot():
    ours, theirs = inspector()(), inspector()()
    seconds, rate, refused = ours.send("127.0.0.1", theirs.listen("127.0.0.1"), 2**20)
    assert (seconds > 0, rate > 0, refused) == (True, True, "")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert "refused" in ours.send("127.0.0.1", port, 1)[2]


def test_an_inspector_says_the_versions_of_its_node():
    facts, _ = inspector()().look()
    assert list(facts) == ["python", "torch", "numpy", "distfa", "ray"]
    assert "not installed" not in facts.values()
