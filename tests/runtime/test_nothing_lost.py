"""A run that ended well has reported everything; a run that lost a report has not ended well."""

import time
from dataclasses import replace

import pytest
from runs import ThreadRun, recipe, run_serial

from distfa.core.books.ledger import Half
from distfa.core.books.records import StepRecord
from distfa.errors import LayerError
from distfa.runtime.worker import Worker
from distfa.transport import serde

BOOKS = {"ledger_every": 1, "probe_every": 2, "ledger_exact": True}


def patched(monkeypatch, change):
    """Every layer's status goes through ``change``."""
    status = Worker.status

    def changed(self):
        found = status(self)
        return replace(found, layers=tuple(map(change, found.layers)))

    monkeypatch.setattr(Worker, "status", changed)


def test_a_layer_slow_to_answer_loses_nothing(monkeypatch):
    """Once the last polls were given 1.5 s: a layer that took 1.6 lost all its steps, and "the law held in all"."""

    def slow(status):
        time.sleep(1.7)
        return status

    r = recipe(max_steps=6, **BOOKS)
    expected = run_serial(r)[1]
    patched(monkeypatch, slow)
    with ThreadRun(r, transport="loopback") as run:
        _, records = run.train()
    assert [x for x in records if isinstance(x, StepRecord)] == [x for x in expected if isinstance(x, StepRecord)]
    assert len(records) == len(expected)


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        (StepRecord, r"5 of its 6 steps were reported"),
        (Half, r"the other end of the \w+ half of boundary 2, step 3 is missing"),
    ],
)
def test_a_run_that_lost_a_report_has_not_ended_well(monkeypatch, lost, message):
    def losing(status):
        kept = tuple(
            entry
            for entry in status.entries
            if not (isinstance(entry, lost) and entry.step == 3 and getattr(entry, "boundary", 2) == 2 and first(entry))
        )
        return replace(status, entries=kept)

    seen = []

    def first(entry):
        seen.append(entry)
        return len(seen) == 1

    patched(monkeypatch, losing)
    with ThreadRun(recipe(max_steps=6, **BOOKS), transport="loopback") as run, pytest.raises(LayerError, match=message):
        run.train()


@pytest.mark.parametrize("rule", ["bp", "fa", "dfa"])
def test_no_two_messages_of_a_run_have_the_same_identity(rule):
    """The true gradient of a probe and the counterpart of the rule's error once went by one name."""
    sent = []
    r = recipe(rule=rule, micro_batches=3, max_steps=5, audit_rows=4, **BOOKS)
    with ThreadRun(r, transport="loopback", tap=lambda link, data: sent.append(data)) as run:
        run.train()
    assert len(sent) > 100
    assert len({serde.message_from_bytes(data).identity for data in sent}) == len(sent)


def test_waiting_is_not_counted_as_work():
    """One slow layer: the others wait, and say so, also while the wait goes on and after the run."""
    with ThreadRun(recipe(rule="bp", max_steps=12), transport="loopback") as run:
        slow = run.handles[2].hosted.layers[0].layer
        forward = slow.forward
        slow.forward = lambda h, part, **how: (time.sleep(0.05), forward(h, part, **how))[1]
        run.train()
        found = run.coordinator.status
    assert found[3].busy_seconds > 0.5
    for layer in (1, 2, 4):
        assert found[layer].wait_seconds > 2 * found[layer].busy_seconds
