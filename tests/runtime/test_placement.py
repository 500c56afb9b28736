"""Whether nodes can hold what layers ask for, and what is said when they cannot."""

import itertools
import time

import numpy as np
import pytest

from distfa.errors import ClusterError
from distfa.runtime.placement import Node, Resources, bundles, fits, share, shortfall


def nodes(*totals):
    return [Node(address=f"10.0.0.{i}", total=total) for i, total in enumerate(totals, start=1)]


@pytest.mark.parametrize(
    ("sizes", "layers", "expected"),
    [
        ([2.0], 4, 0.5),
        ([2.0], 32, 0.0625),
        ([1.0, 1.0, 1.0], 4, 0.5),
        ([8.0], 4, 1.0),
        ([0.0], 4, 0.0),
        ([2.0], 3, 0.6666),
    ],
)
def test_an_even_share_lets_every_layer_fit(sizes, layers, expected):
    assert share(sizes, layers) == expected
    if expected:
        assert fits([{"CPU": expected}] * layers, nodes(*({"CPU": size} for size in sizes)), "pack")


def brute_force(asked, there, placement):
    """Every way to put layers on nodes."""
    for places in itertools.product(range(len(there)), repeat=len(asked)):
        if placement == "strict_spread" and len(set(places)) < len(places):
            continue
        if placement == "strict_pack" and len(set(places)) > 1:
            continue
        left = [dict(node.total) for node in there]
        for place, bundle in zip(places, asked, strict=True):
            for key, value in bundle.items():
                left[place][key] = left[place].get(key, 0.0) - value
        if all(value > -1e-6 for room in left for value in room.values()):
            return True
    return False


@pytest.mark.parametrize("placement", ["pack", "spread", "strict_pack", "strict_spread"])
def test_what_fits_is_what_some_way_to_place_it_allows(placement):
    rng = np.random.default_rng(0)
    answers = set()
    for _ in range(200):
        there = nodes(*({"CPU": float(rng.integers(1, 5)), "GPU": float(rng.integers(0, 3))} for _ in range(3)))
        asked = [
            {key: float(rng.integers(1, 4)) for key in ("CPU", "GPU") if rng.random() < 0.7} or {"CPU": 0.5}
            for _ in range(rng.integers(1, 5))
        ]
        answers.add(expected := brute_force(asked, there, placement))
        assert fits(asked, there, placement) == expected
    assert answers == {True, False}


def test_many_equal_layers_are_counted_in_no_time():
    thirty = [{"CPU": 0.34}] * 30
    there = nodes(*({"CPU": 1.0} for _ in range(15)))  # two on each
    assert fits(thirty, there, "pack")
    assert not fits([*thirty, {"CPU": 0.34}], there, "pack")


def test_a_question_too_long_to_answer_is_left_to_ray():
    """Layers that all differ: to show that they do not fit takes trying every way."""
    asked = [{"CPU": 0.34 + 0.0001 * i} for i in range(31)]
    began = time.monotonic()
    assert fits(asked, nodes(*({"CPU": 1.0} for _ in range(15))), "pack")
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("asked", "there", "placement", "words"),
    [
        (
            [{"CPU": 1.0}, {"CPU": 4.0, "big": 1.0}],
            [{"CPU": 2.0}, {"CPU": 8.0}],
            "pack",
            "layer 2 asks for CPU 4, big 1, but no node has that (big 1 more is needed); the cluster has node "
            "10.0.0.1: CPU 2; node 10.0.0.2: CPU 8",
        ),
        ([{"CPU": 1.0}] * 3, [{"CPU": 2.0}], "pack", "3 layers ask for CPU 3 together, at most CPU 1 each, and do not"),
        (
            [{"CPU": 1.0}] * 3,
            [{"CPU": 9.0}],
            "strict_spread",
            "strict_spread needs 3 nodes for 3 layers, but the cluster has",
        ),
        (
            [{"CPU": 1.0}] * 3,
            [{"CPU": 2.0}, {"CPU": 2.0}],
            "strict_pack",
            "strict_pack needs all 3 layers, CPU 3, on one node",
        ),
        (
            [{"CPU": 1.0}],
            [],
            "pack",
            "layer 1 asks for CPU 1, but no node has that (CPU 1 more is needed); the cluster has no node",
        ),
    ],
)
def test_what_is_missing_is_said(asked, there, placement, words):
    assert not fits(asked, nodes(*there), placement)
    assert words in shortfall(asked, nodes(*there), placement)


def test_shares_and_the_device_follow_from_what_the_cluster_has():
    plain, gpus = nodes({"CPU": 2.0}), nodes({"CPU": 2.0, "GPU": 1.0}, {"CPU": 2.0, "GPU": 1.0})
    asked = (Resources(), Resources(cpus=0.25, custom={"ssd": 1.0}))
    assert bundles(asked, plain, "auto") == ([{"CPU": 1.0}, {"CPU": 0.25, "ssd": 1.0}], "cpu")
    assert bundles(asked, gpus, "cpu")[1] == "cpu"
    found, device = bundles(asked, gpus, "auto")
    assert device == "cuda"
    assert [bundle["GPU"] for bundle in found] == [1.0, 1.0]


def test_cuda_without_gpus_is_refused():
    with pytest.raises(ClusterError, match=r"device is 'cuda', but no node .* has a GPU \(node 10\.0\.0\.1: CPU 2\)"):
        bundles((Resources(),), nodes({"CPU": 2.0}), "cuda")
    with pytest.raises(ClusterError, match="layer 2 would have 0 GPUs"):
        bundles((Resources(), Resources(gpus=0.0)), nodes({"CPU": 2.0, "GPU": 2.0}), "cuda")
    # Where GPUs do not go round, auto takes none for any layer.
    assert bundles((Resources(), Resources(gpus=0.0)), nodes({"CPU": 2.0, "GPU": 2.0}), "auto")[1] == "cpu"
