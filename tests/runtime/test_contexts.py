"""Runs where Ray is used in unusual ways: they work, or end in one clear error within seconds."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import ray
import torch
from torch import nn

import distfa
from distfa.errors import ClusterError
from distfa.runtime.ray.cluster import start_ray, stop_ray


def train(folder, **changes):
    """The weights of a small run, of one layer: every layer takes its process three seconds to start."""
    model = nn.Sequential(nn.Linear(12, 5))
    x = torch.randn(64, 12, generator=torch.Generator().manual_seed(0))
    y = torch.arange(64) % 5
    distfa.Trainer(model, epochs=1, run_dir=str(folder), **changes).fit((x, y))
    return {key: value.clone() for key, value in model.state_dict().items()}


@pytest.fixture(scope="module", autouse=True)
def users_own():
    """A Ray session that the user made, before distfa was called."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # with tokens, Ray would leave one in the home directory
        ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return train(tmp_path_factory.mktemp("serial") / "run", engine="serial")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_start_of_ours_that_failed_before_does_not_make_it_ours(monkeypatch):
    """A run that could not reach a cluster, then the user's own ray.init, then a run: it ended the user's session."""
    with monkeypatch.context() as patch:
        patch.setattr(ray, "is_initialized", lambda: False)
        with pytest.raises(ClusterError):
            start_ray("127.0.0.1:9")
    start_ray(None)  # as a run begins
    stop_ray()  # and ends
    assert ray.is_initialized()


def test_another_cluster_than_the_one_in_use_is_refused(tmp_path, monkeypatch):
    used = ray.get_runtime_context().gcs_address
    with pytest.raises(
        ClusterError, match=rf"already uses the Ray cluster at {used}, but the run asks for 127\.0\.0\.1:9;"
    ):
        train(tmp_path / "run", ray__address="127.0.0.1:9")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")  # says where to go, to a process that is nowhere yet
    for welcome in (used, used.replace(used.split(":")[0], socket.gethostname()), "auto", "local", None):
        start_ray(welcome)
        stop_ray()
    assert ray.is_initialized()


def test_two_runs_in_two_threads_share_the_users_own_session_and_leave_it_as_it_was(tmp_path, expected):
    job, found = ray.get_runtime_context().get_job_id(), {}

    def one(name):
        found[name] = train(tmp_path / name)

    threads = [threading.Thread(target=one, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert same(found["a"], expected)
    assert same(found["b"], expected)
    assert ray.is_initialized()
    assert ray.get_runtime_context().get_job_id() == job


def test_inside_a_ray_task_the_layers_take_what_the_task_leaves(tmp_path, expected):
    folder = str(tmp_path / "run")
    source = textwrap.dedent(
        """
        import torch, distfa
        from torch import nn
        def go(folder):
            model = nn.Sequential(nn.Linear(12, 5))
            x = torch.randn(64, 12, generator=torch.Generator().manual_seed(0))
            distfa.Trainer(model, epochs=1, run_dir=folder, ray__startup_seconds=60).fit((x, torch.arange(64) % 5))
            return {key: value.numpy() for key, value in model.state_dict().items()}
        """
    )

    def inside(source, folder):
        names = {}
        exec(source, names)
        return names["go"](folder)

    weights = ray.get(ray.remote(num_cpus=1)(inside).remote(source, folder), timeout=120)
    assert same({key: torch.from_numpy(value.copy()) for key, value in weights.items()}, expected)


def program(text, folder, *, cwd=None, **environment):
    """A finished Python program; ``text`` has train() at hand. Without ``cwd`` it looks as if 'uv run' started it."""
    head = """
        import json, os, sys, threading, time, psutil, torch, distfa
        from torch import nn
        def train(folder, **changes):
            model = nn.Sequential(nn.Linear(12, 5))
            x = torch.randn(64, 12, generator=torch.Generator().manual_seed(0))
            distfa.Trainer(model, epochs=1, run_dir=folder, **changes).fit((x, torch.arange(64) % 5))
            return {key: value.tolist() for key, value in model.state_dict().items()}
    """
    script = folder / "run"
    script.write_text(
        f"import subprocess, sys\nif sys.argv[-1] != 'inner':\n"
        f"    sys.exit(subprocess.run([{sys.executable!r}, {str(script)!r}, 'inner']).returncode)\n"
        + textwrap.dedent(head)
        + textwrap.dedent(text)
    )
    running = subprocess.Popen(
        [sys.executable, script] if cwd else ["uv", "run"],  # Ray looks at the names of its parents
        executable=sys.executable,
        cwd=cwd or folder,
        env={key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")}
        | {"PYTHONPATH": str(Path(distfa.__file__).parents[1]), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = running.communicate(timeout=150)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)  # what it started holds its pipes, too
    return subprocess.CompletedProcess(running.args, running.returncode, out, err)


def last(done):
    """What a program printed last."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def same_numbers(said, expected):
    """Whether weights that a program printed are the expected ones."""
    return same({key: torch.tensor(value) for key, value in said.items()}, expected)


def test_a_forked_child_is_told_so_at_once_and_its_parent_goes_on(tmp_path):
    """In a program of its own, new to distfa; where Ray hangs in C++, pytest's timeout ends nothing."""
    done = program(
        """
        import ray, select
        ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                said = str(train("child"))
            except BaseException as exc:
                said = f"{type(exc).__name__}: {exc}"
            os.write(write, said.encode())
            os._exit(0)
        ready, _, _ = select.select([read], [], [], 40.0)
        if not ready:
            os.kill(child, 9)
        os.waitpid(child, 0)
        said = os.read(read, 10_000).decode() if ready else "hung"
        print(json.dumps({"said": said, "parent": ray.get(ray.remote(lambda: 3).remote(), timeout=60)}))
        """,
        tmp_path,
        cwd=tmp_path,
        RAY_AUTH_MODE="disabled",
    )
    found = last(done)
    assert "ClusterError: this process" in found["said"]
    assert "was forked from one that uses Ray" in found["said"]
    assert "'spawn'" in found["said"]
    assert found["parent"] == 3


@pytest.mark.parametrize("runs", [1, pytest.param(2, marks=pytest.mark.slow)], ids=["once", "twice"])
def test_a_cluster_of_our_own_is_on_loopback_behind_a_token_and_leaves_nothing(tmp_path, expected, runs):
    """In a program that 'uv run' started, from a second thread."""
    home = tmp_path / "home"
    home.mkdir()
    done = program(
        """
        import ray
        def listening():
            mine = {p.pid for p in psutil.Process().children(recursive=True)} | {os.getpid()}
            return sorted({c.laddr.ip for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.pid in mine})
        seen = {}
        def look(progress):
            seen.setdefault("open", listening())
            seen.setdefault("mode", os.environ.get("RAY_AUTH_MODE"))
            seen.setdefault("address", ray.get_runtime_context().gcs_address)
        def work():
            found = []
            for engine in ("ray", "serial"):
                torch.manual_seed(0)
                model = nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 5))
                trainer = distfa.Trainer(model, epochs=1, run_dir=engine, engine=engine)
                trainer.fit((torch.randn(64, 12), torch.arange(64) % 5), observer=look if engine == "ray" else None)
                found.append([value.tolist() for value in model.state_dict().values()])
            seen["same"] = found[0] == found[1]
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        after = [os.environ.get("RAY_AUTH_MODE"), os.environ.get("RAY_AUTH_TOKEN"), ray.is_initialized()]
        again = train("b") if os.environ["RUNS"] == "2" else None
        print(json.dumps({"again": again, "after": after, **seen}))
        """,
        tmp_path,
        HOME=str(home),
        RUNS=str(runs),
    )
    said = last(done)
    assert said["same"]
    assert runs == 1 or same_numbers(said["again"], expected)
    assert {address.removeprefix("::ffff:") for address in said["open"]} == {"127.0.0.1"}
    assert said["mode"] == "token"
    assert said["after"] == [None, None, False]
    assert list(home.rglob("*")) == []


@pytest.mark.slow  # test_survey.py has it without a cluster
def test_a_layer_that_would_import_another_distfa_is_refused_with_both_paths(tmp_path):
    """Ray puts the directory a run is started in before everything else on its workers' path."""
    other, scripts = tmp_path / "distfa", tmp_path / "scripts"
    other.mkdir()
    scripts.mkdir()
    (other / "__init__.py").write_text("raise RuntimeError('another distfa was imported')\n")
    done = program(
        """
        try:
            train("run-dir")
        except distfa.errors.ClusterError as exc:
            print(json.dumps([str(exc), os.path.dirname(distfa.__file__)]))
        """,
        scripts,
        cwd=tmp_path,
    )
    said, mine = last(done)
    assert f"imports distfa from {other} (code " in said
    assert f"this process from {mine} (code " in said


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:9", "no Ray cluster answers at 127.0.0.1:9"),
        ("http://127.0.0.1:8265", "RAY_ADDRESS .* that is the address of its dashboard"),
        ("ray://127.0.0.1:10001", "RAY_ADDRESS .* Ray Client cannot run layers"),
    ],
)
def test_ray_address_counts(monkeypatch, tmp_path, address, message):
    """In a process without a session, as a program is; this one has one, so the session is put out of sight."""
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    began = time.monotonic()
    with pytest.raises(ClusterError, match=message):
        start_ray(None)
    assert time.monotonic() - began < 10
