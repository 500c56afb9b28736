"""A run in this process leaves no thread behind, whether it ends well or not.

A good run of four layers once left 4 threads of its servers, and a failed one 12: its streams' threads went on
waiting for a next message.
"""

import threading
import time

import pytest
from runs import ThreadRun, recipe, run_threads
from test_failures import fails

from distfa.errors import DeadlineExceeded, LayerError
from distfa.transport.base import WireConfig
from distfa.transport.grpc_transport import GrpcTransport
from distfa.transport.message import Direction, Kind, Link


def left_of(before, *, within_seconds=5.0):
    """Names of threads that were not there before, once they had time to end."""
    give_up = time.monotonic() + within_seconds
    while (left := [t.name for t in threading.enumerate() if t not in before]) and time.monotonic() < give_up:
        time.sleep(0.02)
    return left


@pytest.fixture
def before():
    return set(threading.enumerate())


@pytest.mark.parametrize("transport", ["grpc", "loopback"])
def test_a_run_that_ends_well_leaves_no_thread(before, transport):
    run_threads(recipe(rule="fa", epochs=1, probe_every=2), transport=transport)
    assert left_of(before) == []


@pytest.mark.parametrize("transport", ["grpc", "loopback"])
@pytest.mark.parametrize("meddle", [lambda m: [m, m], lambda m: []], ids=["repeated", "lost"])
def test_a_run_that_fails_leaves_no_thread(before, meddle, transport):
    error = fails(  # which keeps the run alive, as a caller who looks at it does
        lambda m: meddle(m) if m.identity.step == 3 and m.identity.kind is Kind.ACTIVATION else [m],
        transport=transport,
    )
    assert isinstance(error, LayerError)
    assert left_of(before) == []


def test_a_run_that_never_began_leaves_no_thread(before):
    with ThreadRun(recipe(rule="fa")) as run:
        run.coordinator.connect(run.addresses, 10.0)
    assert left_of(before) == []


def test_a_stream_that_nobody_answers_leaves_no_thread(before):
    transport = GrpcTransport(WireConfig(), run_id="run-1", worker=1)
    link = Link(boundary=1, direction=Direction.UP, sender=1, receiver=2, shape=(5,))
    with pytest.raises(DeadlineExceeded, match="layer 1 could not reach layer 2"):
        transport.connect(link, "127.0.0.1:9", 0.3)
    transport.close()
    assert left_of(before) == []


def test_closing_twice_is_as_closing_once(before):
    transport = GrpcTransport(WireConfig(), run_id="run-1", worker=1)
    transport.listen([])
    transport.close()
    transport.close()
    assert left_of(before) == []
