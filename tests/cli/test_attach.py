"""``--address``: runs on a Ray cluster that somebody else started, which stays when they end."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from commands import TINY, here

from distfa.runtime.ray import private, reach

RAY = [sys.executable, "-m", "ray.scripts.scripts"]


def healthy(address):
    return (
        subprocess.run([*RAY, "health-check", "--address", address], capture_output=True, check=False).returncode == 0
    )


def end_all(parent, scratch):
    """Kill the head node: its parent process first, then whatever works in its directory."""
    for pid in (parent, *(int(name) for name in os.listdir("/proc") if name.isdigit())):
        with contextlib.suppress(OSError):
            if pid == parent or scratch in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def cluster():
    """The address of a head node in a process group of its own, as 'ray start --head' makes it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address, scratch = f"127.0.0.1:{port}", tempfile.mkdtemp(prefix="ray")
    start = ["start", "--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=2", "--block"]
    more = ["--include-dashboard=false", "--object-store-memory=100000000", f"--temp-dir={scratch}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_worker_niceness", "0")
        private.read_token_again()
        head = subprocess.Popen(
            [*RAY, *start, *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        give_up = time.monotonic() + 60
        while time.monotonic() < give_up and reach.refuses(address):
            assert head.poll() is None, "ray start ended by itself"
            time.sleep(0.1)
        assert healthy(address)
        yield address
    end_all(head.pid, scratch)
    head.wait(30)
    shutil.rmtree(scratch, ignore_errors=True)


def test_a_run_attaches_gives_the_same_weights_and_leaves_the_cluster_as_it_was(cluster, tmp_path):
    small = (*TINY, "--hidden", 16, "--set", "ray.workers=1")
    attached = here("train", *small, "--address", cluster, "--json", cwd=tmp_path)
    serial = here("train", *small, "--engine", "serial", "--json", cwd=tmp_path)
    a, b = (json.loads(done.stdout.splitlines()[-1]) for done in (attached, serial))
    assert (a["train_loss"], a["test_accuracy"]) == (b["train_loss"], b["test_accuracy"])
    assert healthy(cluster)


def test_doctor_looks_at_a_cluster_and_lets_two_layers_talk(cluster, tmp_path):
    """The second run on this cluster: the first has left it as it was."""
    out = here("doctor", "--address", cluster, cwd=tmp_path).stdout
    assert f"attached to Ray at {cluster}" in out
    assert re.search(r"node [\d.]+: python 3\.\d+\.\d+, torch \S+, numpy \S+, distfa code \w+, ray \S+, GPUs: ", out)
    assert re.search(r"two layers communicated over gRPC \(insecure\): [\d,]+ bytes", out)
    assert "bit for bit" in out
    assert re.search(
        r"warn  Ray requires no token: anyone who can reach [\d.]+ can run code .*\n +fix: put its ports", out
    ) or (
        "Ray can be reached only from this machine" in out  # where Ray takes the loopback address it was given
    )
    assert out.rstrip().endswith("training will work")


def test_doctor_says_what_to_mend(tmp_path):
    as_json = here("doctor", "--address", "127.0.0.1:1", "--json", cwd=tmp_path, check=False)
    assert as_json.returncode == 1
    assert json.loads(as_json.stdout)["training_will_work"] is False
    done = here("doctor", "--address", "127.0.0.1:1", cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert re.search(r"fail  no Ray cluster answers at 127.0.0.1:1.*\n +fix: start one there", done.stdout)


def test_something_that_is_no_ray_cluster_is_given_up(tmp_path, monkeypatch):
    assert reach._HEALTH_SECONDS <= 30
    monkeypatch.setattr(reach, "_HEALTH_SECONDS", 1.0)  # less than Ray takes to ask
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        done = here("train", "--address", address, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert f"something listens at {address}, but no Ray cluster answers there within 1 s" in done.stderr
    assert "Traceback" not in done.stderr
