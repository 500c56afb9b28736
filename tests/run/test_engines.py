"""A run in one process computes as a layer actor does, and leaves the process as it was."""

import pytest
import torch

from distfa import data
from distfa.intake.subject import subject_for
from distfa.run.run import run
from distfa.settings import parse_spec


@pytest.mark.parametrize("threads", [1, 2])
def test_a_serial_run_computes_with_its_own_threads_and_gives_back_as_many_as_there_were(tmp_path, threads):
    digits, seen, before = data.load("digits", limit=60), set(), torch.get_num_threads()
    spec = parse_spec({"engine": "serial", "epochs": 1, "threads": threads, "run_dir": str(tmp_path / "run")})
    torch.set_num_threads(3)
    try:
        run(spec, subject_for(spec, digits).network, digits, observer=lambda _: seen.add(torch.get_num_threads()))
        assert (seen, torch.get_num_threads()) == ({threads}, 3)
    finally:
        torch.set_num_threads(before)
