"""Output that cannot be written never ends a run, whatever is wrong with it."""

import json
import os
import signal
import subprocess
import sys
from unittest.mock import patch

import numpy as np
import pytest
from commands import command
from runs import blobs
from torch import nn

import distfa
from distfa.cli import main
from distfa.run.disk.run_dir import read_about
from distfa.text.streams import UnbrokenStream

TINY = ("train", "--engine", "serial", "--epochs", "3", "--set", "data.limit=96", "--set", "ledger.every=0")


def full():
    return open("/dev/full", "w")


def without_a_reader():
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def closed():
    with open(os.devnull, "w") as file:
        return file


BROKEN = [full, without_a_reader, closed, lambda: None]


def typed(*arguments, out, err):
    """The exit code of the command line with these streams, in this process."""
    handlers = {ending: signal.getsignal(ending) for ending in (signal.SIGTERM, signal.SIGHUP)}
    with (
        patch.object(sys, "argv", ["distfa", *map(str, arguments)]),
        patch.object(sys, "stdout", out),
        patch.object(sys, "stderr", err),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    for ending, handler in handlers.items():
        signal.signal(ending, handler)
    return ended.value.code


@pytest.mark.parametrize("broken", BROKEN)
def test_a_run_ends_well_though_nothing_that_it_says_can_be_written(broken, tmp_path):
    where = tmp_path / "run"
    assert typed(*TINY, "--run-dir", where, out=sys.stdout, err=broken()) == 0
    assert read_about(where)["status"] == "finished"
    again = tmp_path / "again"
    code = typed(*TINY, "--json", "--run-dir", again, out=broken(), err=sys.stderr)
    assert code == (0 if broken is BROKEN[-1] else 1)  # nobody asked for a result where there is no stdout
    assert read_about(again)["status"] == "finished"


def test_a_result_that_cannot_be_written_is_told_of(tmp_path, capsys):
    assert typed(*TINY, "--json", "--run-dir", tmp_path / "run", out=full(), err=sys.stderr) == 1
    assert "error: cannot write to stdout: No space left on device" in capsys.readouterr().err


@pytest.mark.parametrize("broken", BROKEN[:3])
def test_a_fit_ends_well_though_its_progress_cannot_be_shown(broken, tmp_path, monkeypatch):
    x, y = blobs(12, 5, 40)
    trainer = distfa.Trainer(
        nn.Sequential(nn.Linear(12, 5)), engine="serial", epochs=2, verbose=True, run_dir=str(tmp_path / "run")
    )
    monkeypatch.setattr(sys, "stderr", broken())
    result = trainer.fit((x.astype(np.float32), y))
    assert result.epochs == 2


def test_a_pipe_whose_reader_has_seen_enough_does_not_end_the_training(tmp_path):
    """``distfa train 2>&1 | head -2`` once ended it: error "fileno"."""
    train = subprocess.Popen(
        command(*TINY, "--run-dir", "run"), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert "training" in train.stdout.readline()
    train.stdout.close()
    assert train.wait(120) == 1  # the result was not read
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "finished"


def test_descriptors_that_are_closed_at_the_start_go_to_no_file_of_the_run(tmp_path):
    done = subprocess.run(
        ["bash", "-c", '"$0" "$@" <&- >&- 2>&-', *command(*TINY, "--run-dir", "run")], cwd=tmp_path, timeout=120
    )
    assert done.returncode == 0
    assert read_about(tmp_path / "run")["status"] == "finished"
    assert all(json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())


def test_letters_that_a_stream_cannot_write_are_escaped(tmp_path):
    with (tmp_path / "out").open("w", encoding="ascii") as file:
        stream = UnbrokenStream(file)
        stream.write("größer\n")
        assert stream.lost is None
    assert (tmp_path / "out").read_text() == "gr\\xf6\\xdfer\n"
