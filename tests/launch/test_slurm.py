"""SLURM in earnest: real daemons, the files of deploy/slurm submitted to them, and a run that scancel cuts short."""

import json
import re
import sys
import time
import warnings

import pytest
from slurm_nodes import SlurmNodes, why_not

from distfa.experiment import spec as specs
from distfa.launch import render

WHY_NOT = why_not()
if WHY_NOT is not None:
    warnings.warn(f"SLURM IS NOT TESTED HERE: {WHY_NOT}", stacklevel=1)
pytestmark = [
    pytest.mark.skipif(WHY_NOT is not None, reason=f"NOT TESTED, no SLURM here: {WHY_NOT}"),
    pytest.mark.slow,
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def slurm():
    with SlurmNodes() as nodes:
        yield nodes


def submitted(slurm, file, **changes):
    """(job, run directory) of a spec sent by one of the files."""
    usual = {"run_dir": f"runs/{file}", "launch.cpus": 1, "ray.placement": "spread", "launch.memory_gib": 3}
    spec = specs.load(None, list({**usual, **changes}.items()))
    render.write(render.rendered(spec, "slurm"), slurm.folder / file)
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
    long = {"run_dir": "runs/cut", "epochs": 200, "checkpoint.every": 50, "checkpoint.seconds": 0}
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
    assert "holds a run that ended early; it goes on" in said
    about = json.loads((run_dir / "run.json").read_text())
    assert about["status"] == "finished"
    assert about["result"]["epochs"] == 200


def test_launch_follows_a_job_and_says_what_slurm_refuses(slurm):
    spec = specs.load(None, [("run_dir", "runs/followed"), ("launch.cpus", 1), ("epochs", 2)])
    (slurm.folder / "spec.yaml").write_text(render.as_yaml(spec))
    launch = [sys.executable, "-m", "distfa", "launch", "spec.yaml", "--on", "slurm"]
    refused = slurm.run(*launch, "--set", "launch.nodes=3", check=False)
    assert refused.returncode == 1
    assert "More processors requested than permitted" in refused.stderr or "not available" in refused.stderr
    said = slurm.run(*launch).stderr
    assert "running on n[1-2]" in said
    assert "test accuracy" in said
    assert json.loads((slurm.folder / "runs/followed/run.json").read_text())["status"] == "finished"
