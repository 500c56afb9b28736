"""Every layer hands in what it did in a few steps."""

import pytest
from runs import ThreadRun, recipe

from distfa.core import schedule
from distfa.core.base import order


@pytest.mark.parametrize(("epochs", "steps"), [(8, [20, 21, 22]), (2, [7, 8, 9])], ids=["long run", "short run"])
@pytest.mark.parametrize("name", ["sync", "async"])
def test_a_timeline_has_every_operation_of_its_steps_in_order(name, epochs, steps):
    r = recipe(rule="fa", micro_batches=3, schedule=name, epochs=epochs)
    with ThreadRun(r) as run:
        run.train()
    assert sorted(timeline.layer for timeline in run.timelines) == [1, 2, 3, 4]
    for timeline in run.timelines:
        expected = [
            (type(op).__name__.lower(), op.batch.step, getattr(op, "micro_batch", None))
            for op in schedule.operations(order.batches(r, 75), schedule.forwards_ahead(r, timeline.layer))
            if op.batch.step in steps
        ]
        assert [(span.operation, span.step, span.micro_batch) for span in timeline.spans] == expected
        for before, after in zip(timeline.spans, timeline.spans[1:], strict=False):
            assert before.start <= before.end <= after.start
            assert 0 <= before.waited <= before.end - before.start + 1e-3
