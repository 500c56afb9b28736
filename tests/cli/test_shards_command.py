"""A data set in shards, from the command line."""

import numpy as np
from commands import here


def test_a_run_on_shards_from_the_command_line_and_its_evaluation(tmp_path):
    """A relative place is the caller's, whatever the working directory of a worker."""
    rng = np.random.default_rng(0)
    for name, rows in (("train-0", 50), ("train-1", 40), ("test", 20)):
        np.savez(tmp_path / f"{name}.npz", x=rng.random((rows, 6), np.float32), answer=rng.integers(0, 3, rows))
    data = ("--data", "shards", "--data-dir", ".", "--set", "data.window=1", "--set", "data.label=answer")
    done = here(
        "train", *data, "--engine", "serial", "--hidden", "4", "--epochs", "1", "--run-dir", "run", cwd=tmp_path
    )
    assert (tmp_path / "distfa-index.json").exists()
    assert "3 steps, 1 epoch" in done.stdout
    assert "test: 20 samples" in here("eval", "run", cwd=tmp_path).stdout
    refused = here("train", "--set", "data.label=answer", "--engine", "serial", cwd=tmp_path, check=False)
    assert refused.returncode == 2
    assert "label='answer' was given with data set 'digits'; it is for 'shards'" in refused.stderr
