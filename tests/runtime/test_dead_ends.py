"""Where there is no Ray, or no way to it, a run says so within seconds: Ray itself would wait for minutes."""

import os
import re
import shutil
import socket
import subprocess

import pytest
from commands import command

from distfa.errors import ClusterError
from distfa.runtime.ray import place as ray_place
from distfa.runtime.ray.cluster import start_ray

LIMIT_SECONDS = 60.0  # 10 s are promised, on a machine that does nothing else; Ray's own waits are longer than this
UNSHARE = shutil.which("unshare")
needs_namespaces = pytest.mark.skipif(
    UNSHARE is None or subprocess.run([UNSHARE, "-n", "true"], capture_output=True, check=False).returncode != 0,
    reason="needs the right to make a network namespace (Linux, root)",
)
DOWN, WITHOUT = "true", "ip link set lo up && ip address del 127.0.0.1/8 dev lo"


def apart(setup, *args, cwd):
    """distfa in a network of its own, where loopback is as ``setup`` makes it; it starts down."""
    typed = ["unshare", "--net", "sh", "-c", f'{setup} && exec "$@"', "sh", *command(*args)]
    return subprocess.run(typed, cwd=cwd, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)


@needs_namespaces
@pytest.mark.parametrize(
    "setup", [pytest.param(DOWN, marks=pytest.mark.slow), WITHOUT], ids=["down", "without 127.0.0.1"]
)
def test_without_loopback_a_run_says_so_and_what_brings_it_back(setup, tmp_path):
    done = apart(setup, "train", "--run-dir", "run", cwd=tmp_path)
    assert done.returncode == 1
    assert re.search(
        r"cannot reach each other at 127\.0\.0\.1 \(.*\).*'ip link set lo up'.*--engine serial", done.stderr
    )
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@needs_namespaces
def test_without_loopback_a_run_in_one_process_is_as_any_other(tmp_path):
    size = ("--epochs", 1, "--set", "data.limit=64")
    assert apart(DOWN, "train", "--engine", "serial", *size, cwd=tmp_path).returncode == 0


@pytest.fixture
def noted(tmp_path, monkeypatch):
    """A cluster that Ray noted as the last one of this machine, and that is gone."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = f"127.0.0.1:{gone.getsockname()[1]}"
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", set)  # other tests' clusters on this machine
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(address)
    return address.rpartition(":")[2]


def test_auto_leads_to_no_cluster_that_is_gone(noted):
    """It hung, and so did 'distfa launch --on auto'."""
    with pytest.raises(
        ClusterError, match=f"address 'auto' is the cluster at .*:{noted}, according to Ray's .*nothing listens"
    ):
        start_ray("auto")


def test_auto_without_any_cluster_says_so(noted):
    os.remove(os.path.join(os.environ["RAY_TMPDIR"], "ray", "ray_current_cluster"))
    with pytest.raises(ClusterError, match="cannot attach to Ray at 'auto': .*--address local starts one here"):
        start_ray("auto")


def test_loopback_that_is_there_is_let_through():
    ray_place.require_loopback()
