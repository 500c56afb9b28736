"""Files are there whole, or as they were."""

import os
from pathlib import Path

import pytest
import torch
from full_disk import full_at

from distfa.bench.outcome import Outcome
from distfa.errors import DistfaError, UsageError
from distfa.files import require_writable, write_whole
from distfa.launch import render
from distfa.pages.page import Page
from distfa.plan.calibration import Calibration
from distfa.run.disk.weights import save_weights


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
    "page": lambda file: Page(title="x" * 5000, subtitle="", parts=[]).write(file),
    "outcome": lambda file: Outcome(name="x" * 5000, settings={}, columns={}, rows=[], machine={}).save(file),
    "calibration": lambda file: Calibration(machine={"name": "x" * 5000}).save(file),
    "launch": lambda file: render.write_files({file.name: "x" * 5000}, file.parent),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_writer_of_whole_files_says_that_the_disk_is_full_and_leaves_nothing(tmp_path, writer):
    with full_at(4096), pytest.raises(DistfaError, match="cannot write .*: File too large"):
        WRITERS[writer](tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "folder", "why"),
    [
        ("/proc/none/mine.json", False, "No such file or directory"),
        (".", False, "it is a folder"),
        ("file/mine.json", False, "Not a directory"),
        ("file", True, "Not a directory"),
        ("n" * 300, False, "File name too long"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_work(path, folder, why, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=f"--out is .*, which cannot be written: {why}; choose another location"):
        require_writable(Path(path), "--out", folder=folder)


def test_a_full_disk_is_refused_before_the_work(small_disk):
    (small_disk / "filler").write_bytes(bytes(200 * 1024))
    with pytest.raises(UsageError, match="No space left on device"):
        require_writable(small_disk / "mine.json", "--out")


def test_the_trial_leaves_nothing_and_makes_no_folder(tmp_path):
    require_writable(tmp_path / "a" / "b" / "mine.json", "--out")
    require_writable(tmp_path / "a", "--out", folder=True)
    assert list(tmp_path.iterdir()) == []
