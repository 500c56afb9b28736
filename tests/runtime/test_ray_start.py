"""Ray gives itself 30 s to start, and says so by a bare Exception: a busy machine is tried again, then named."""

import pytest

from distfa.errors import ClusterError
from distfa.runtime.ray import cluster

LATE = Exception("The current node timed out during startup. This could happen because some of the raylet failed")


@pytest.mark.parametrize("late", [1, 2])
def test_a_start_that_was_too_late_is_tried_again(monkeypatch, late):
    tries = iter([LATE] * late + [None])

    def init(**options):
        if (error := next(tries)) is not None:
            raise error

    monkeypatch.setattr(cluster.ray, "init", init)
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    cluster._start_here(1)
    assert next(tries, "all used") == "all used"
    cluster._SESSION.token.withdraw()


def test_a_machine_too_busy_for_ray_is_named_with_its_load(monkeypatch):
    def init(**options):
        raise LATE

    monkeypatch.setattr(cluster.ray, "init", init)
    with pytest.raises(ClusterError, match=r"did not start on this machine in 3 attempts of 30 s.* the load is \d+ on"):
        cluster._start_here(1)


def test_another_error_is_not_tried_again(monkeypatch):
    tries = []

    def init(**options):
        tries.append(1)
        raise RuntimeError("no such thing")

    monkeypatch.setattr(cluster.ray, "init", init)
    with pytest.raises(RuntimeError, match="no such thing"):
        cluster._start_here(1)
    assert len(tries) == 1
