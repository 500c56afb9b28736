"""``distfa launch``: what it would do, what it refuses, and a run on a cluster that is there."""

import json
import os
import stat
import subprocess
import time

import pytest
import yaml
from commands import command, distfa, here

from distfa.launch import render
from distfa.launch.targets import require_token
from distfa.settings import parse_spec

pytestmark = pytest.mark.usefixtures("shared_ray")


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
    assert "'kubectl' is not on this machine's PATH; install it" in done.stderr


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
    here("launch", "spec.yaml", "--on", "local", "--set", "model.hidden=[]", cwd=folder)
    assert json.loads((folder / "runs/one/run.json").read_text())["status"] == "finished"
    again = here("launch", "spec.yaml", "--on", "local", cwd=folder, check=False)
    assert again.returncode == 2
    assert "the run in runs/one has finished; choose another directory" in again.stderr


SERIAL = ("--set", "engine=serial", "--set", "checkpoint.every=2", "--set", "checkpoint.seconds=0")


def test_a_launch_that_was_killed_goes_on_when_the_same_command_is_typed_again(folder):
    """It started anew, in another directory, although docs/deploy.md promises that it is resumed."""
    (folder / "spec.yaml").write_text("epochs: 200\nmodel: {hidden: [8]}\ndata: {name: digits, limit: 64}\n")
    typed = ("launch", "spec.yaml", "--on", "local", *SERIAL)
    driver = subprocess.Popen(command(*typed), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    give_up = time.monotonic() + 120
    while not list(folder.glob("runs/launched/checkpoints/*/manifest.json")):
        assert time.monotonic() < give_up
        assert driver.poll() is None
        time.sleep(0.02)
    driver.kill()
    driver.wait()
    assert "run   resume runs/launched on local" in here(*typed, "--dry-run", cwd=folder).stdout
    other = here(*typed, "--set", "rule=fa", cwd=folder, check=False)
    assert other.returncode == 2
    assert "runs/launched holds a run with rule 'dfa', but 'fa' is requested; choose another directory" in other.stderr
    again = here(*typed, "--set", "wire.window=3", cwd=folder)
    assert "runs/launched holds a run that ended early; resuming it" in again.stderr
    about = json.loads((folder / "runs/launched/run.json").read_text())
    assert (about["status"], about["attempt"], about["result"]["steps"]) == ("finished", 2, 400)
    assert [path.name for path in (folder / "runs").iterdir()] == ["launched"]
    third = here(*typed, cwd=folder, check=False)
    assert third.returncode == 2
    assert "the run in runs/launched has finished; choose another directory with --set run_dir=..." in third.stderr


def test_a_job_has_its_run_where_the_next_job_finds_it(folder):
    """Ray gives every job a working directory of its own."""
    for given, kept in ((None, "~/runs/launched"), ("mine", "~/mine"), ("/data/run", "/data/run"), ("~/a", "~/a")):
        assert render.put_run_dir_home(render.fix_run_dir(parse_spec({"run_dir": given}))).run_dir == kept


def tool(folder, name, script):
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def ray_up(folder, monkeypatch):
    """'ray' is a script here that writes down how it was called and what it was given; nothing is started."""
    tool(folder, "ray", f'echo "$@" >> {folder}/calls; env | grep RAY_AUTH_TOKEN >> {folder}/calls; true')
    monkeypatch.setenv("PATH", f"{folder}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(folder / "home"))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    (folder / "distfa").mkdir()
    (folder / "constraints.txt").touch()
    return folder


NAMED = ("--set", "launch.hosts=[10.0.0.1,10.0.0.2]", "--set", "launch.ssh_user=me")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            (),
            "launch.hosts and launch.ssh_user are not set, so 'ray up' would get the placeholders HEAD, NODE1,",
        ),
        (NAMED[:2], "launch.ssh_user is not set"),
        (
            (*NAMED, "--set", "launch.nodes=3"),
            "launch.hosts names 2 machines (10.0.0.1, 10.0.0.2), but launch.nodes is 3",
        ),
        (
            ("--set", "launch.cloud={provider: gcp, machine: e2-standard-2, region: us-west1}"),
            "launch.cloud.zone and launch.cloud.project and launch.image are not set, so 'ray up' would get",
        ),
    ],
)
def test_ray_up_starts_nothing_on_names_that_are_still_to_be_filled_in(ray_up, given, says):
    """It ran 'ray up --yes' on machines called HEAD and NODE1."""
    done = here("launch", "spec.yaml", "--on", "ray-up", *given, cwd=ray_up, check=False)
    assert done.returncode == 2
    assert says in done.stderr
    assert not (ray_up / "calls").exists()
    assert not (ray_up / "runs").exists()


def test_ray_up_keeps_its_token_in_a_file_of_its_owner_and_prints_it_nowhere(ray_up):
    """It printed one in clear, and saved none, so that the machines had none."""
    done = distfa("launch", "spec.yaml", "--on", "ray-up", *NAMED, cwd=ray_up)
    file = ray_up / "home/.ray/auth_token"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(token := file.read_text()) == 64
    calls = (ray_up / "calls").read_text()
    assert token not in done.stdout + done.stderr + calls
    assert [call.split()[0] for call in calls.splitlines()] == ["up", "exec", "down"]
    cluster = yaml.safe_load((ray_up / "runs/launch/ray-up/local.yaml").read_text())
    assert cluster["provider"] == {"type": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2"]}
    assert cluster["auth"] == {"ssh_user": "me"}
    assert cluster["file_mounts"]["~/spec.yaml"] == "runs/launch/spec.yaml"  # it was deploy/spec.yaml
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    file.chmod(0o644)
    said = []
    assert require_token(said.append).read_text() == token
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert said == [f"{file} could be read by others; now only its owner can read it"]


AWS = "launch.cloud={provider: aws, machine: m5.large, region: us-west-2}"


def test_ray_up_says_which_machines_a_cloud_would_start_before_it_starts_them(ray_up):
    given = ("--set", AWS, "--set", "launch.image=r/distfa")
    said = distfa("launch", "spec.yaml", "--on", "ray-up", *given, cwd=ray_up).stderr
    assert "machines: 2 x m5.large on aws in us-west-2: the head and 1 worker; the cloud charges" in said
    assert said.index("machines:") < said.index("ray up")
    cluster = yaml.safe_load((ray_up / "runs/launch/ray-up/aws.yaml").read_text())
    kinds = cluster["available_node_types"].values()
    assert [kind["node_config"] for kind in kinds] == [{"InstanceType": "m5.large"}] * 2
    assert "up --yes runs/launch/ray-up/aws.yaml" in (ray_up / "calls").read_text()


def test_render_writes_the_files_and_names_them(folder):
    said = here("launch", "render", "spec.yaml", "--on", "slurm", "-o", "out", cwd=folder).stdout.split()
    assert said == ["out/spec.yaml", "out/slurm/distfa.sbatch", "out/slurm/distfa-shared.sbatch"]
    assert all((folder / path).exists() for path in said)
    assert yaml.safe_load((folder / "out/spec.yaml").read_text())["run_dir"] == "runs/one"
