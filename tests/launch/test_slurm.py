"""SLURM in earnest: real daemons, the files of deploy/slurm submitted to them, and a run that scancel cuts short."""

import json
import re
import signal
import sys
import time

import pytest
from needs import needs
from slurm_nodes import SlurmNodes, why_not

from distfa import settings as specs
from distfa.launch import render

pytestmark = [
    needs("SLURM", why_not(), else_untested="runs on SLURM"),
    pytest.mark.slow,
    pytest.mark.timeout(900),
]


LONG = [("epochs", 200), ("checkpoint.every", 50), ("checkpoint.seconds", 0)]


@pytest.fixture(scope="module")
def cluster():
    with SlurmNodes() as nodes:
        yield nodes


@pytest.fixture
def slurm(cluster):
    """The cluster, with nothing left on it of the test before."""
    cluster.await_idle()
    return cluster


def submitted(slurm, file, **changes):
    """(job, run directory) of a spec sent by one of the files."""
    usual = {"run_dir": f"runs/{file}", "launch.cpus": 1, "ray.placement": "spread", "launch.memory_gib": 3}
    spec = specs.load_spec(None, list({**usual, **changes}.items()))
    render.write_files(render.render_target(spec, "slurm"), slurm.folder / file)
    job = slurm.run("sbatch", "--parsable", f"{file}/slurm/{file}.sbatch", f"{file}/spec.yaml").stdout.strip()
    return job, slurm.folder / spec.run_dir


def ended(slurm, job, *, seconds=280):
    """(state, output) of a job at its end."""
    give_up = time.monotonic() + seconds
    while True:
        state = re.search(r"JobState=(\w+)", slurm.run("scontrol", "show", "job", job).stdout)[1]
        output = slurm.folder / f"distfa-{job}.out"
        said = output.read_text() if output.exists() else ""
        if state not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"):
            return state, said
        assert time.monotonic() < give_up, f"job {job} is still {state}: {said}{slurm.said()}"
        time.sleep(1)


@pytest.mark.parametrize("file", ["distfa", "distfa-shared"])
def test_a_job_trains_on_two_nodes_under_tls(slurm, file):
    job, run_dir = submitted(slurm, file)
    state, said = ended(slurm, job)
    print(said)
    assert state == "COMPLETED", said
    result = json.loads((run_dir / "run.json").read_text())["result"]
    assert len({layer["node"] for layer in result["facts"]["layers"]}) == 2
    assert result["facts"]["security"] == "tls"
    assert result["test_accuracy"] > 0.9


def test_a_job_whose_ray_does_not_start_has_failed(slurm):
    job, _ = submitted(slurm, "distfa", **{"run_dir": "runs/none", "launch.port": 6818})  # slurmd's own
    state, said = ended(slurm, job)
    assert state == "FAILED", said
    assert "the run did not start, or was ended" in said


def test_after_scancel_the_same_job_goes_on_from_its_checkpoint(slurm):
    long = dict(LONG, run_dir="runs/cut")
    job, run_dir = submitted(slurm, "distfa", **long)
    give_up = time.monotonic() + 200
    while not list(run_dir.glob("checkpoints/*/manifest.json")):
        assert time.monotonic() < give_up, slurm.said()
        time.sleep(0.5)
    slurm.run("scancel", job)
    state, said = ended(slurm, job)
    assert state == "CANCELLED", said
    again, _ = submitted(slurm, "distfa", **long)
    state, said = ended(slurm, again)
    print(said)
    assert state == "COMPLETED", said
    assert "holds a run that ended early; resuming it" in said
    about = json.loads((run_dir / "run.json").read_text())
    assert about["status"] == "finished"
    assert about["result"]["epochs"] == 200


def test_ctrl_c_cancels_the_job_and_the_same_command_goes_on(slurm):
    """While it holds both nodes, another job is not started in time, and is cancelled."""
    spec = specs.load_spec(None, [*LONG, ("run_dir", "runs/stopped"), ("launch.cpus", 2)])
    (slurm.folder / "long.yaml").write_text(render.as_yaml(spec))
    launch = [sys.executable, "-m", "distfa", "launch", "long.yaml", "--on", "slurm"]
    first = slurm.started(*launch)
    give_up, kept = time.monotonic() + 200, slurm.folder / "runs/stopped/checkpoints"
    while not list(kept.glob("*/manifest.json")):
        assert first.poll() is None, first.stderr.read()
        assert time.monotonic() < give_up, slurm.said()
        time.sleep(0.5)
    late = slurm.run(*launch, "--set", "launch.wait_seconds=4", "--set", "run_dir=late/run", check=False)
    assert late.returncode == 1
    job = re.search(r"submitted job (\d+)", late.stderr)[1]
    assert f"SLURM has not started job {job} (reason: " in late.stderr
    assert "within 4 s, so it was cancelled; it asks for 2" in late.stderr
    assert ended(slurm, job)[0] == "CANCELLED"
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=120)
    assert first.returncode == 130, said
    job = re.search(r"interrupted; cancelled job (\d+)", said)[1]
    assert f"job {job}: running on n[1-2]" in said
    assert "epoch 1: train loss" in said
    assert ended(slurm, job)[0] == "CANCELLED"
    again = slurm.run(*launch)
    assert "holds a run that ended early; resuming it" in again.stderr
    assert json.loads((slurm.folder / "runs/stopped/run.json").read_text())["status"] == "finished"


def test_launch_follows_a_job_and_says_what_slurm_refuses(slurm):
    spec = specs.load_spec(None, [("run_dir", "runs/followed"), ("launch.cpus", 1), ("epochs", 2)])
    (slurm.folder / "spec.yaml").write_text(render.as_yaml(spec))
    launch = [sys.executable, "-m", "distfa", "launch", "spec.yaml", "--on", "slurm"]
    for asked in ("launch.cpus=64", "launch.nodes=3"):
        refused = slurm.run(*launch, "--set", asked, check=False)
        assert refused.returncode == 1
        assert (  # versions differ in when they say so
            "failed: sbatch: error: " in refused.stderr
            or re.search(r"\(reason: Partition\w+\) and never will, so it was cancelled; it asks for ", refused.stderr)
        )
    said = slurm.run(*launch).stderr
    assert "running on n[1-2]" in said
    assert "test accuracy" in said
    assert json.loads((slurm.folder / "runs/followed/run.json").read_text())["status"] == "finished"
