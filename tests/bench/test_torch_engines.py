"""The torch peers train as distfa's own bp does, so that a race between them is a race at one task."""

import sys

import numpy as np
import pytest

from distfa.bench import torch_engines
from distfa.bench.torch_training import Pipeline
from distfa.core.books.records import StepRecord
from distfa.errors import BenchError
from distfa.measuring.subprocesses import launch
from distfa.measuring.task import Task
from distfa.settings import parse_spec

SECONDS = 60


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    """A small network on blobs, 6 steps per epoch and one short batch."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, 250)
    x = (rng.standard_normal((5, 12))[y] + 0.3 * rng.standard_normal((250, 12))).astype(np.float32)
    path = tmp_path_factory.mktemp("data") / "blobs.npz"
    np.savez(path, train_x=x[:200], train_y=y[:200], test_x=x[200:], test_y=y[200:])
    return {
        "data": {"name": "npz", "dir": str(path)},
        "model": {"hidden": [17, 9, 8]},
        "rule": "bp",
        "batch_size": 32,
        "epochs": 1,
        "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "schedule": "linear"},
    }


def serial_losses(raw, **changes):
    task = Task.of(parse_spec({**raw, **changes}))
    return [r.loss for r in task.trainer().run() if isinstance(r, StepRecord)]


def test_one_process_has_the_losses_of_serial_bp(spec):
    found = torch_engines.run_single(parse_spec(spec), threads=1, warmup=2, deadline_seconds=SECONDS)
    assert len(found.losses) == 7
    np.testing.assert_allclose(found.losses, serial_losses(spec), rtol=2e-6)  # a few float32 roundings of the loss
    assert found.steady.samples_per_second > 0
    assert found.steady.cpu_seconds > 0


MODELS = {  # on data that are always there
    "lenet": {"data": {"name": "digits", "limit": 100}, "batch_size": 20},
    "transformer": {"data": {"name": "stdlib", "limit": 24}, "batch_size": 8, "max_steps": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_any_model_trains_in_one_process_as_by_serial_bp(spec, name):
    raw = {**spec, **MODELS[name], "model": {"name": name}, "optimizer": {"name": "sgd", "lr": 0.01}}
    found = torch_engines.run_single(parse_spec(raw), threads=1, warmup=1, deadline_seconds=SECONDS)
    np.testing.assert_allclose(found.losses, serial_losses(raw), rtol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_any_model_trains_in_a_pipeline_as_by_serial_bp(spec, name):
    raw = {**spec, **MODELS[name], "model": {"name": name}, "optimizer": {"name": "sgd", "lr": 0.01}}
    task = Task.of(parse_spec(raw))
    pipeline = Pipeline(layers=len(task.recipe.network), processes=2, schedule="gpipe", micro_batches=2)
    found = torch_engines.run_pipeline(parse_spec(raw), pipeline, deadline_seconds=SECONDS)
    np.testing.assert_allclose(found.losses, serial_losses(raw, micro_batches=2), rtol=2e-5)
    above = 1 + pipeline.layers // 2  # the first layer of the second process
    assert found.payload_bytes == len(found.losses) * raw["batch_size"] * 4 * 2 * task.recipe.network[above].inputs


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [None, "gpipe"])
def test_mixed_peers_have_the_losses_of_serial_bp_and_send_bfloat16(spec, schedule):
    raw = {**spec, "dtype": "bfloat16", "max_steps": 6}
    if schedule is None:
        losses = torch_engines.run_single(parse_spec(raw), threads=1, warmup=2, deadline_seconds=SECONDS).losses
    else:
        pipeline = Pipeline(layers=4, processes=2, schedule=schedule, micro_batches=1)
        found = torch_engines.run_pipeline(parse_spec(raw), pipeline, warmup=2, deadline_seconds=SECONDS)
        losses = found.losses
        assert found.payload_bytes == 6 * 32 * 2 * 2 * 9
    np.testing.assert_allclose(losses, serial_losses(raw), rtol=5e-4)  # torch rounds gradients of biases too


@pytest.mark.slow
@pytest.mark.parametrize(("schedule", "processes", "micro_batches"), [("gpipe", 2, 4), ("1f1b", 3, 4)])
def test_pipelines_have_the_losses_of_serial_bp(spec, schedule, processes, micro_batches):
    raw = {**spec, "max_steps": 6}
    pipeline = Pipeline(layers=4, processes=processes, schedule=schedule, micro_batches=micro_batches)
    found = torch_engines.run_pipeline(parse_spec(raw), pipeline, warmup=2, deadline_seconds=SECONDS)
    np.testing.assert_allclose(found.losses, serial_losses(raw), rtol=2e-6)
    columns = {2: 9, 3: 17 + 9}[processes]  # widths of the boundaries between processes
    assert found.payload_bytes == 6 * 32 * 4 * 2 * columns
    assert found.steady.samples_per_second > 0


def test_a_peer_that_does_not_end_is_killed_and_named(spec):
    with pytest.raises(BenchError, match=r"torch gpipe, 2 processes, M=1 did not end within 1 s \(process 0, 1\)"):
        torch_engines.run_pipeline(parse_spec(spec), Pipeline(layers=4, processes=2), deadline_seconds=1)


def test_a_peer_that_fails_is_named_with_what_it_said():
    with pytest.raises(BenchError, match="the peer: process 1 ended with code 1: ouch"):
        launch(
            "the peer", [["sleep", "60"], [sys.executable, "-c", "exit('ouch')"]], environment={}, deadline_seconds=30
        )


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        (Pipeline(layers=4, processes=5), "5 processes cannot be made of 4 layers; use 2 to 4"),
        (Pipeline(layers=4, processes=2, micro_batches=3), "32 rows cannot be split into 3 equal parts"),
        (Pipeline(layers=4, processes=2, schedule="zb"), "'zb' is not one of gpipe, 1f1b"),
        (
            Pipeline(layers=4, processes=3, schedule="1f1b", micro_batches=2),
            "at least as many micro-batches as processes, not 2",
        ),
        (Pipeline(layers=4, processes=2, prefixes=[["nice"]]), "1 command prefixes for 2 processes"),
    ],
)
def test_pipelines_that_cannot_be(spec, pipeline, message):
    with pytest.raises(BenchError, match=message):
        torch_engines.run_pipeline(parse_spec(spec), pipeline, deadline_seconds=SECONDS)
