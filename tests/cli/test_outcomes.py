"""What a command writes can be written, or the command does not begin."""

import re
from pathlib import Path

import pytest
from typed import commands, options
from typer.testing import CliRunner

from distfa.cli import app
from distfa.errors import UsageError

READ = {("plan", "--cluster"), ("train", "--resume")}
NEEDED = {"report": ["."], "export": ["."], "experiment": ["classes"], "predict": [".", "x.npy"]}
WRITTEN = [
    (words, option)
    for words, function in commands()
    for option, kind, _ in options(function)
    if kind in (Path, Path | None) and (words[-1], option) not in READ
]


@pytest.mark.parametrize(("words", "option"), WRITTEN, ids=lambda value: value if isinstance(value, str) else value[-1])
def test_every_file_that_a_command_writes_is_tried_before_the_work(words, option, tmp_path, monkeypatch):
    """``bench rules`` trained for hours, and then could not write its table."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=re.escape(f"{option} is /proc/no/such, which cannot be written")):
        CliRunner().invoke(app, [*words, *NEEDED.get(words[0], []), option, "/proc/no/such"], catch_exceptions=False)
    assert list(tmp_path.iterdir()) == []


def test_all_of_them_are_found():
    assert {words[0] for words, _ in WRITTEN} == {
        "bench",
        "experiment",
        "export",
        "launch",
        "plan",
        "predict",
        "report",
    }
    assert len(WRITTEN) >= 14


def test_the_place_that_is_taken_if_none_is_named_is_tried_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bench-rules.json").mkdir()
    with pytest.raises(UsageError, match="--out is bench-rules.json, which cannot be written: it is a folder"):
        CliRunner().invoke(app, ["bench", "rules"], catch_exceptions=False)
