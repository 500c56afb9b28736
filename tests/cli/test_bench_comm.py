"""``distfa bench comm`` and ``distfa bench rules`` as a user runs them, and the pages of their files."""

import pytest
from commands import here

from distfa.bench.outcome import Outcome


@pytest.mark.slow
def test_comm_without_links_counts_bytes_and_its_file_is_drawn(tmp_path):
    task = ("--hidden", 24, "--batch-size", 32, "--micro-batches", 1, "--lr", "3e-3")
    size = ("--rules", "dfa", "--codecs", "", "--target", 85, "--max-steps", 200, "--eval-steps", 20)
    done = here("bench", "comm", *task, *size, "--mbit", 0, "--link-steps", 4, "--warmup", 1, cwd=tmp_path)
    assert "distfa dfa" in done.stdout
    outcome = Outcome.load(tmp_path / "bench-comm.json")
    *_, bp, dfa = outcome.rows
    assert (bp["payload_kb"], dfa["payload_kb"]) == (2 * 24 * 32 * 4 / 1000, (24 + 10) * 32 * 4 / 1000)
    assert dfa["same_codec"] == (24 + 10) / 48
    assert [bp[key] for key in ("message_kb", "interface_kb", "seconds")] == [None] * 3
    assert bp["steps"] % 20 == dfa["steps"] % 20 == 0
    drawn = here("report", "bench-comm.json", cwd=tmp_path)
    assert drawn.stdout.strip() == "bench-comm.html"
    assert "No run to the target was timed over links" in (tmp_path / "bench-comm.html").read_text()


def test_rules_prints_a_row_per_rule_and_init(tmp_path):
    options = ("--rules", "bp,fa", "--epochs", 1, "--hidden", "12,8", "--out", "mine.json")
    here("bench", "rules", *options, cwd=tmp_path)
    rows = Outcome.load(tmp_path / "mine.json").rows
    assert [(row["rule"], row["init"]) for row in rows] == [("bp", "any"), ("fa", "aligned"), ("fa", "random")]


def test_what_cannot_be_is_refused_in_one_sentence(tmp_path):
    for options, message in (
        (("rules", "--rules", "bpp"), "did you mean 'bp'"),
        (("comm", "--codecs", "int9"), "did you mean 'int8'"),
        (("comm", "--max-steps", 40), "the run is shorter than the 50 steps between evaluations"),
    ):
        done = here("bench", *options, cwd=tmp_path, check=False)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr
