"""What a layer keeps at cuts for the coordinator to fetch: long enough to be fetched, and never too much of it."""

import pytest
from runs import ThreadRun, recipe

from distfa.runtime import hosted_layer


@pytest.fixture
def worker():
    with ThreadRun(recipe(), transport="loopback") as run:
        yield run.handles[0].hosted


def kept(worker, cuts):
    """The steps of ``cuts`` at which the state is still there, once it has been kept at all of them."""
    for step in cuts:
        worker.layers[0]._take_snapshot(step)
    return [step for step in cuts if worker.snapshot(1, step) is not None]


def test_there_are_never_more_than_so_many(worker):
    cuts = range(1, 201)
    assert kept(worker, cuts) == list(cuts[-hosted_layer._MOST_SNAPSHOTS :])


def test_of_large_ones_the_latest_and_the_one_before_it_stay(worker, monkeypatch):
    monkeypatch.setattr(hosted_layer, "_MOST_BYTES", 100)
    assert kept(worker, range(1, 6)) == [4, 5]


def test_old_ones_go_but_for_the_latest_before(worker, monkeypatch):
    monkeypatch.setattr(hosted_layer, "_FETCH_SECONDS", 0.0)
    assert kept(worker, range(1, 6)) == [4, 5]


def test_one_is_given_once(worker):
    worker.layers[0]._take_snapshot(3)
    assert worker.snapshot(1, 3).step == 3
    assert worker.snapshot(1, 3) is None
