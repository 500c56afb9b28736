"""An inbox bounds what waits, refuses strangers, and carries bad news behind what came before it."""

import time

import pytest
import wires
from wires import Background

from distfa.errors import DeadlineExceeded, LayerLost, MessageRefused, PeerLost, TransportError
from distfa.transport import serde


def data(step=0, **options):
    return serde.message_to_bytes(wires.message(step=step, **options))


def steps(box, count):
    return [box.take(5.0, "signal").identity.step for _ in range(count)]


@pytest.mark.parametrize("window", [1, 3])
def test_a_full_window_holds_its_sender_until_something_is_taken(window):
    box = wires.inbox(window=window)
    for step in range(window):
        box.deliver(data(step))
    late = Background(box.deliver, data(window))
    assert late.still_runs_after(0.1)
    assert steps(box, 1) == [0]
    late.result()
    assert steps(box, window) == list(range(1, window + 1))


def test_a_message_of_another_run_is_refused_and_the_run_goes_on():
    box = wires.inbox()
    with pytest.raises(MessageRefused, match="layer 3 refused a message of run 'older': it belongs to run 'run-1'"):
        box.deliver(data(run_id="older"))
    box.deliver(data(step=4))
    assert steps(box, 1) == [4]


def test_a_payload_beyond_the_limit_is_refused_and_ends_the_link():
    box = wires.inbox(max_payload_bytes=59)  # an activation of 3 x 5 float32 has 60
    refusal = "layer 3 refused the activation from layer 2 across boundary 2, step 7.* 60 bytes, more than the 59"
    with pytest.raises(MessageRefused, match=refusal):
        box.deliver(data(step=7))
    with pytest.raises(MessageRefused, match=refusal):
        box.take(5.0, "signal")
    with pytest.raises(TransportError, match="layer 3 no longer accepts messages up across boundary 2"):
        box.deliver(data(step=8, codec="int8"))


def test_a_payload_of_just_the_limit_is_taken():
    box = wires.inbox(max_payload_bytes=60)
    box.deliver(data(step=7))
    assert steps(box, 1) == [7]


def test_bytes_that_are_no_message_end_the_link_for_both_ends():
    box = wires.inbox()
    with pytest.raises(MessageRefused, match="layer 3 refused 7 bytes that are not a distfa.v1.PushRequest"):
        box.deliver(b"garbage")
    with pytest.raises(MessageRefused, match="layer 3 refused 7 bytes"):
        box.take(5.0, "signal")


def test_a_wait_ends_at_its_deadline_and_names_whom_it_waited_for():
    started = time.monotonic()
    with pytest.raises(
        DeadlineExceeded,
        match=r"layer 3 waited 0\.\d s for the activation of step 9, which did not arrive; check layer 2",
    ):
        wires.inbox().take(0.2, "activation of step 9")
    assert 0.2 <= time.monotonic() - started < 5  # two busy cores; the point is that it ends


def test_a_wait_ends_when_a_signal_comes():
    box = wires.inbox()
    taken = Background(box.take, 20.0, "signal")
    assert taken.still_runs_after(0.05)
    box.deliver(data(step=1))
    assert taken.result().identity.step == 1


def test_a_failure_is_seen_after_the_signals_that_came_before_it():
    box = wires.inbox()
    for step in range(2):
        box.deliver(data(step))
    box.fail(PeerLost("layer 2 went away"))
    assert steps(box, 2) == [0, 1]
    for _ in range(2):  # and stays
        with pytest.raises(PeerLost, match="layer 2 went away"):
            box.take(5.0, "signal")


def test_a_failure_wakes_who_waits_at_either_end():
    full, empty = wires.inbox(window=1), wires.inbox()
    full.deliver(data())
    sending, taking = Background(full.deliver, data(1)), Background(empty.take, 20.0, "signal")
    assert sending.still_runs_after(0.05)
    for box in (full, empty):
        box.fail(LayerLost("layer 2 died"))
    with pytest.raises(TransportError, match="layer 3 no longer accepts messages"):
        sending.result()
    with pytest.raises(LayerLost, match="layer 2 died"):
        taking.result()


def test_the_first_failure_is_the_one_that_is_told():
    box = wires.inbox()
    box.fail(PeerLost("the cause"))
    box.fail(PeerLost("its consequence"))
    with pytest.raises(PeerLost, match="the cause"):
        box.take(5.0, "signal")


def test_closing_frees_a_sender_that_waits_for_room():
    box = wires.inbox(window=1)
    box.deliver(data())
    late = Background(box.deliver, data(1))
    assert late.still_runs_after(0.05)
    box.close()
    with pytest.raises(TransportError, match="layer 3 no longer accepts messages up across boundary 2, layer 2 to 3"):
        late.result()
