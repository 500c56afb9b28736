"""Files are there whole, or as they were."""

import os

import pytest

from distfa.files import write_whole


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
