"""Shards on Ray: the worker of the first layer reads inputs, that of the last one labels, and no bit is another."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from runs import assert_same_bits

from distfa.data import load
from distfa.intake.subject import subject_for
from distfa.run.run import run
from distfa.settings import parse_spec

pytestmark = pytest.mark.usefixtures("shared_ray")


def test_workers_that_read_shards_train_what_one_process_trains_on_the_data_in_memory(tmp_path):
    rng = np.random.default_rng(0)
    for split, sizes in (("train", (20, 23, 11, 29)), ("test", (30,))):
        for number, rows in enumerate(sizes):
            x, y = rng.integers(0, 256, (rows, 12)).astype(np.uint8), rng.integers(0, 3, rows)
            np.savez(tmp_path / f"{split}-{number}.npz", x=x, y=y)
    dataset = load("shards", directory=tmp_path, window=2)
    arrays = {name: np.asarray(getattr(dataset, name)) for name in ("train_x", "train_y", "test_x", "test_y")}
    found = {}
    for engine, data in (("ray", dataset), ("serial", dataclasses.replace(dataset, **arrays))):
        spec = parse_spec(
            {
                "data": {"name": "shards", "dir": str(tmp_path), "window": 2},
                "engine": engine,
                "epochs": 2,
                "batch_size": 16,
                "model": {"hidden": [8]},
                "run_dir": str(tmp_path / engine),
            }
        )
        found[engine] = run(spec, subject_for(spec, data).network, data)
    assert_same_bits(found["ray"][1], found["serial"][1])
    assert found["ray"][0].test_loss == found["serial"][0].test_loss


@pytest.mark.slow
def test_the_script_that_measures_memory_finds_equal_weights(tmp_path):
    script = Path(__file__).parents[2] / "scripts" / "shards.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "--gib", "0.125"], capture_output=True, text=True, check=False
    )
    assert "the weights are equal" in done.stdout, done.stderr
