"""What a result says bp would have sent: one definition, whatever the engine."""

import pytest
from runs import ThreadRun, recipe, run_serial

from distfa.codecs import CODECS, resolve
from distfa.core.books.records import StepRecord
from distfa.run.result import bp_payload, with_total
from distfa.runtime.coordinator import boundary_bytes

R = recipe((12, 17, 9, 5))


@pytest.mark.parametrize(("codec", "each_way"), [("fp32", 100 * 9 * 4), ("int8", 100 * 13), ("int4", 100 * 9)])
def test_bp_sends_activations_up_and_errors_as_wide_down(codec, each_way):
    wire = CODECS[codec]
    for sent in (0, 777):  # a run in one process has sent nothing
        assert bp_payload(R, 2, rows=100, up=wire, down=wire, sent_up=sent) == 2 * each_way


def test_messages_of_no_fixed_length_are_the_runs_own_on_the_way_up_and_without_zeros_down():
    packed = CODECS["packed"]
    assert bp_payload(R, 2, rows=100, up=packed, down=packed, sent_up=777) == 777 + 100 * (2 + 9 * 4)
    assert bp_payload(R, 2, rows=100, up=packed, down=packed, sent_up=0) is None  # not known, not half of it
    assert bp_payload(R, 2, rows=0, up=packed, down=packed, sent_up=0) == 0


def test_what_zstd_would_make_of_errors_that_were_never_sent_is_not_known():
    up, down = CODECS["int4+zstd"], CODECS["int8+zstd"]
    assert bp_payload(R, 2, rows=100, up=up, down=down, sent_up=777) is None
    assert bp_payload(R, 2, rows=100, up=up, down=CODECS["int8"], sent_up=777) == 777 + 100 * 13


@pytest.mark.parametrize("codec", ["lossless", "int8"])
def test_a_bp_run_would_have_sent_what_it_sent_and_a_serial_one_says_the_same(codec):
    """The 'up' half was missing where nothing travelled: 172,416 bytes in one engine and 344,832 in the other."""
    bp = recipe((12, 17, 9, 5), rule="bp", micro_batches=3)
    up = down = resolve(codec, bp.signal_dtype)

    def said(records, sent):
        rows = sum(record.rows for record in records if isinstance(record, StepRecord))
        return [bp_payload(bp, row["boundary"], rows=rows, up=up, down=down, sent_up=row["up_payload"]) for row in sent]

    with ThreadRun(bp, activations=codec, errors=codec) as run:
        _, records = run.train()
        sent = boundary_bytes(run.coordinator.traffic(), bp.network.boundaries)
    wired = said(records, sent)
    assert wired == [row["up_payload"] + row["down_payload"] for row in sent]
    _, records, _ = run_serial(bp, activations=codec, errors=codec)
    assert said(records, boundary_bytes({}, bp.network.boundaries)) == wired


def test_a_total_with_a_part_that_is_not_known_is_not_known():
    rows = [{"boundary": 1, "up_payload": 3, "bp_payload": None}, {"boundary": 2, "up_payload": 4, "bp_payload": 9}]
    total = with_total(rows)["total"]
    assert (total["up_payload"], total["bp_payload"]) == (7, None)
