"""Checkpoints that cannot be written are told of once, then counted; and so is the first that is written again."""

import threading

import torch

from distfa.errors import LayerError
from distfa.run.disk.checkpoint import Store
from distfa.run.disk.checkpoint_writer import CheckpointWriter
from distfa.runtime.hosted_layer import Snapshot


def snapshots(step):
    yield Snapshot(step=step, state={"w": torch.ones(2)}, traffic={})


def late(step):
    yield from snapshots(step)
    raise LayerError("layer 2 did not return its state within 5 s (wire.deadline_seconds)")


def test_of_many_that_cannot_be_written_the_first_and_the_tenth_are_told_and_the_next_that_is(tmp_path):
    told, noted = [], []
    place = tmp_path / "place"
    place.write_text("no directory")
    writer = CheckpointWriter(Store(str(place), keep=2), least_seconds=0.0, tell=told.append, note=noted.append)
    for step in range(1, 13):
        writer.offer(step, snapshots(step), {})
    writer.settle()
    assert ["(10 in a row)" in said for said in told] == [False, True]
    assert "cannot write the checkpoint of step 1 to" in told[0]
    assert "cannot write the checkpoint of step 10 to" in told[1]
    assert all(said.endswith("; training continues, and the next checkpoint will be tried") for said in told + noted)
    assert ["(12 in a row)" in said for said in noted] == [False] * 9 + [True]
    place.unlink()
    for step in (13, 14):
        writer.offer(step, snapshots(step), {})
    writer.settle()
    assert told[2:] == ["wrote the checkpoint of step 13, 72 bytes; 12 before it could not be written"]
    assert noted[-1] == "wrote the checkpoint of step 14, 72 bytes"
    for step in (15, 16):
        writer.offer(step, late(step), {})
    writer.settle()
    assert [said.partition(";")[0] for said in told[3:]] == [
        "the checkpoint of step 15 was not written: layer 2 did not return its state within 5 s (wire.deadline_seconds)"
    ]


def test_the_last_of_a_run_that_has_to_end_is_told_of_in_any_case(tmp_path):
    told = []
    (tmp_path / "place").write_text("no directory")
    writer = CheckpointWriter(
        Store(str(tmp_path / "place"), keep=2), least_seconds=0.0, tell=told.append, note=[].append
    )
    for step in (1, 2):
        writer.offer(step, snapshots(step), {})
    writer.settle()
    writer._least_seconds = 60.0
    writer.offer(3, snapshots(3), {})
    writer.write_last()
    assert [said.partition(" to ")[0] for said in told] == [f"cannot write the checkpoint of step {n}" for n in (1, 3)]
    assert told[1].endswith("set checkpoint.dir to another location (3 in a row)")


def test_there_is_one_writer_and_a_late_one_loses_nothing(tmp_path):
    """A second one once began after 20 s, and the first removed what it had written."""
    told, goes_on = [], threading.Event()
    store = Store(str(tmp_path), keep=1)
    writer = CheckpointWriter(store, least_seconds=0.0, tell=told.append, note=[].append)
    writer.last_seconds = 0.1

    def slow(step):
        goes_on.wait(60)
        yield from snapshots(step)

    writer.offer(1, slow(1), {})
    writer._least_seconds = 60.0
    writer.offer(2, snapshots(2), {})
    writer.write_last()
    assert told == ["the checkpoint of step 2 is skipped: the previous one is still being written after 0 s"]
    goes_on.set()
    writer.write_last()
    writer.settle()
    assert store.steps() == [2]


def test_whatever_keeps_a_checkpoint_from_being_written_is_told(tmp_path):
    told = []
    writer = CheckpointWriter(Store(str(tmp_path), keep=1), least_seconds=0.0, tell=told.append, note=[].append)
    writer.offer(1, (1 / 0 for _ in range(1)), {})
    writer.settle()
    assert told[0].startswith("the checkpoint of step 1 was not written: ZeroDivisionError: division by zero; training")
