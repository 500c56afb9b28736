"""``distfa launch``: what it would do, what it refuses, and a run on a cluster that is there."""

import json
import os
import stat

import pytest
import yaml
from commands import distfa, here


@pytest.fixture
def folder(tmp_path):
    spec = {"epochs": 1, "model": {"hidden": [8]}, "data": {"name": "digits", "limit": 64}, "run_dir": "runs/one"}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    return tmp_path


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("slurm", "run   sbatch --parsable runs/launch/slurm/distfa.sbatch runs/launch/spec.yaml"),
        ("kuberay", "run   kubectl apply --filename runs/launch/kuberay/rayjob.yaml"),
        ("docker", "run   docker compose --file runs/launch/docker/compose.yaml down --remove-orphans"),
        ("ray-up", "run   ray down --yes runs/launch/ray-up/local.yaml"),
        ("10.0.0.1:6379", "run   wait for 2 nodes, then start the run on 10.0.0.1:6379"),
        ("http://10.0.0.1:8265", "run   ray job submit --address http://10.0.0.1:8265"),
        ("local", "run   start the run on local"),
    ],
)
def test_a_dry_run_says_what_it_would_do_and_does_nothing(folder, target, says):
    before = sorted(folder.rglob("*"))
    assert says in here("launch", "spec.yaml", "--on", target, "--dry-run", cwd=folder).stdout
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--on", "moon"], "--on 'moon' is not a target; it takes local, docker, kuberay, slurm, ray-up, HOST:PORT"),
        (["--on", "local", "--set", "launch.nodes=0"], "launch.nodes is 0"),
        (["--on", "local", "--set", "launch.node=2"], "unknown key 'launch.node' in the spec; did you mean"),
    ],
)
def test_refusals_are_one_line(folder, arguments, says):
    done = here("launch", "spec.yaml", *arguments, cwd=folder, check=False)
    assert done.returncode == 2
    assert says in done.stderr


def test_a_missing_tool_is_named(folder, monkeypatch):
    monkeypatch.setenv("PATH", str(folder))
    done = here("launch", "spec.yaml", "--on", "kuberay", cwd=folder, check=False)
    assert done.returncode == 2
    assert "'kubectl' is not on this machine's path; install it" in done.stderr


def test_what_was_started_is_stopped_when_the_run_fails(folder, monkeypatch):
    """kubectl is a script here that writes down how it was called; there is no Kubernetes to ask."""
    tool = folder / "kubectl"
    tool.write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\n[ "$1" != wait ]\n')
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    done = distfa(
        "launch",
        "spec.yaml",
        "--on",
        "kuberay",
        cwd=folder,
        check=False,
        env={"PATH": f"{folder}:{os.environ['PATH']}"},
    )
    assert done.returncode == 1
    assert "'kubectl wait rayjob/distfa" in done.stderr
    assert "failed with exit code 1" in done.stderr
    calls = (folder / "calls").read_text().splitlines()
    assert [call.split()[0] for call in calls] == ["apply", "wait", "delete"]
    assert calls[-1] == "delete rayjob/distfa configmap/distfa-spec --ignore-not-found"


def test_a_local_launch_trains_and_a_second_one_finds_it_finished(folder):
    distfa("launch", "spec.yaml", "--on", "local", cwd=folder)
    assert json.loads((folder / "runs/one/run.json").read_text())["status"] == "finished"
    again = here("launch", "spec.yaml", "--on", "local", cwd=folder, check=False)
    assert again.returncode == 2
    assert "the run in runs/one has finished" in again.stderr


def test_render_writes_the_files_and_names_them(folder):
    said = here("launch", "render", "spec.yaml", "--on", "slurm", "-o", "out", cwd=folder).stdout.split()
    assert said == ["out/spec.yaml", "out/slurm/distfa.sbatch", "out/slurm/distfa-shared.sbatch"]
    assert all((folder / path).exists() for path in said)
    assert yaml.safe_load((folder / "out/spec.yaml").read_text())["run_dir"] == "runs/one"
