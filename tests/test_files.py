"""Files are there whole, or as they were."""

import os

import pytest
import torch
from full_disk import full_at

from distfa.bench.outcome import Outcome
from distfa.errors import DistfaError
from distfa.experiment.report.page import write_page
from distfa.experiment.weights import save_weights
from distfa.files import write_whole
from distfa.launch import render
from distfa.plan.calibration import Calibration


def test_a_file_is_replaced_whole_and_nothing_lies_beside_it(tmp_path):
    path = tmp_path / "ä.json"
    write_whole(path, "one")
    write_whole(path, "zwei ß".encode())
    assert path.read_text(encoding="utf-8") == "zwei ß"
    assert [file.name for file in tmp_path.iterdir()] == ["ä.json"]


def test_what_was_there_stays_if_the_disk_is_full(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    write_whole(path, b"before")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"after")
    assert path.read_bytes() == b"before"
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


WRITERS = {
    "weights": lambda file: save_weights(file, {"w": torch.zeros(5000)}),
    "page": lambda file: write_page(file, "x" * 5000),
    "outcome": lambda file: Outcome(name="x" * 5000, settings={}, columns={}, rows=[], machine={}).save(file),
    "calibration": lambda file: Calibration(machine={"name": "x" * 5000}).save(file),
    "launch": lambda file: render.write({file.name: "x" * 5000}, file.parent),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_writer_of_whole_files_says_that_the_disk_is_full_and_leaves_nothing(tmp_path, writer):
    with full_at(4096), pytest.raises(DistfaError, match="cannot write .*: File too large"):
        WRITERS[writer](tmp_path / "file")
    assert list(tmp_path.iterdir()) == []
