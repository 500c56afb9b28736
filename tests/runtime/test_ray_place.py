"""Odd surroundings: a run works in them, or says what is wrong with them, and not what Ray makes of it."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from commands import command, distfa, here

from distfa.errors import ClusterError
from distfa.runtime.ray import place as ray_place
from distfa.runtime.ray.place import require_place, store_directory


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_a_long_directory_for_sockets_is_named_with_the_way_out(variable, tmp_path, monkeypatch):
    monkeypatch.setenv(variable, str(tmp_path / ("long" * 30)))
    done = here("train", cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert re.search(
        rf"error: Ray would keep its sockets in .*longlong/ray \(by {variable}\), whose name has", done.stderr
    )
    assert "leaves room for 43: set RAY_TMPDIR to a directory with a shorter name" in done.stderr
    assert "AF_UNIX" not in done.stderr


def test_the_longest_directory_that_is_let_through_is_one_that_ray_takes(tmp_path, monkeypatch):
    from ray._private.utils import validate_socket_filepath

    for length in range(30, 60):
        place = "/tmp/" + "x" * (length - len("/tmp/"))
        socket = f"{place}/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
        monkeypatch.setenv("RAY_TMPDIR", place)
        if len(f"{place}/ray") <= 43:
            validate_socket_filepath(socket)
        else:
            with pytest.raises(OSError, match="AF_UNIX"):
                validate_socket_filepath(socket)
            with pytest.raises(ClusterError, match="leaves room for 43"):
                require_place()


@pytest.mark.parametrize(
    "variables", [{}, {"TMPDIR": "/a"}, {"RAY_TMPDIR": "/b"}, {"TMPDIR": "/a", "RAY_TMPDIR": "/b"}]
)
def test_it_is_the_directory_that_ray_itself_takes(variables, monkeypatch):
    """Ray's own function for it is private, and has had other names from Ray 2.52 to 2.60."""
    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    from ray._common import utils

    own = getattr(utils, "get_default_ray_temp_dir", None) or utils.get_ray_temp_dir
    assert str(ray_place.directory()[0]) == own()


def test_a_place_that_cannot_be_written_or_is_full_is_named(monkeypatch, small_disk):
    monkeypatch.setenv("RAY_TMPDIR", "/proc")
    with pytest.raises(ClusterError, match=r"keeps its files in /proc/ray \(by RAY_TMPDIR\), which cannot be written"):
        require_place()
    monkeypatch.setenv("RAY_TMPDIR", small_disk.name)  # short, for sockets
    monkeypatch.chdir(small_disk.parent)
    with pytest.raises(
        ClusterError, match="where 262.1 kB are free, but it needs 67.1 MB: free up space, or set RAY_TMPDIR"
    ):
        require_place()


def test_without_shared_memory_the_store_lies_in_rays_own_directory(tmp_path, monkeypatch):
    assert store_directory(tmp_path) is None or not Path("/dev/shm").is_dir()
    monkeypatch.setattr(ray_place, "SHARED", tmp_path / "none")
    assert store_directory(tmp_path) == str(tmp_path)


WITHOUT_SHM = """
for f in null zero full random urandom; do touch $0/$f; mount --bind /dev/$f $0/$f || exit 77; done
ln -s /proc/self/fd $0/fd
mount --rbind $0 /dev
exec "$@"
"""


@pytest.mark.slow
def test_a_run_without_a_home_and_without_shared_memory_is_as_any_other(tmp_path):
    scratch = tmp_path / "dev"
    scratch.mkdir()
    args = command("train", "--epochs", "1", "--run-dir", tmp_path / "run", "--json")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", WITHOUT_SHM, scratch, *args],
        env={**os.environ, "HOME": "/proc"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    if done.returncode in (1, 77) and "ready" not in done.stderr and "error:" not in done.stderr:
        pytest.skip(f"needs the right to mount (root): {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["test_accuracy"] > 0.8


@pytest.mark.slow
def test_rays_memory_monitor_is_named_as_what_ended_a_layer(tmp_path):
    done = distfa("train", cwd=tmp_path, check=False, env={"RAY_memory_usage_threshold": "0.01"})
    assert done.returncode == 1
    assert re.search(r"error: layer \d.*: .*Ray killed (its|it).* because its node ran out of memory", done.stderr)
    assert "make batch_size smaller" in done.stderr
    assert "report it" not in done.stderr


PARTS = [("raylet", "agent"), ("gcs_server", "control process")]


def said_without(part, starter, tmp_path, *options):
    """What a run says when a part of Ray is killed under it; ``starter`` gives the process that started Ray."""
    log = tmp_path / "err"
    with log.open("w") as err:
        run = subprocess.Popen(command("train", "--epochs", "5000", *options), cwd=tmp_path, stdout=err, stderr=err)
    try:
        give_up = time.monotonic() + 200
        while "epoch 1:" not in log.read_text() and time.monotonic() < give_up:
            time.sleep(0.2)
        below = psutil.Process(starter or run.pid).children(recursive=True)
        (process,) = [child for child in below if child.name() == part]
        process.kill()
        assert run.wait(120) == 1
    finally:
        run.kill()
    said = log.read_text()
    assert not re.search(r"\x1b|core_worker|rpc_client|\.cc:\d|Traceback", said)
    return said


@pytest.mark.slow
@pytest.mark.parametrize(("part", "named"), PARTS)
def test_when_ray_itself_ends_the_run_says_so_in_one_line_of_its_own(part, named, tmp_path):
    said = said_without(part, None, tmp_path)
    assert f"error: Ray's {named} ({part}) on this machine died (exit code -9)" in said


@pytest.fixture
def cluster():
    """(address, process that started it) of a Ray that belongs to nobody here."""
    folder = Path(tempfile.mkdtemp())  # pytest's own names are too long for sockets
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--include-dashboard=false"]
    start += ["--node-ip-address=127.0.0.1", f"--port={address.partition(':')[2]}", f"--temp-dir={folder}"]
    start += ["--num-cpus=2", "--object-store-memory=100000000"]
    with (folder / "log").open("w") as log:
        ray = subprocess.Popen(
            start,
            stdout=log,
            stderr=log,
            env={**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"},
        )
    below = []
    try:
        give_up = time.monotonic() + 100
        while "--block" not in (folder / "log").read_text() and time.monotonic() < give_up:
            assert ray.poll() is None, (folder / "log").read_text()
            time.sleep(0.2)
        below = psutil.Process(ray.pid).children(recursive=True)
        yield address, ray.pid
    finally:
        for process in [*below, ray]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        ray.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.parametrize("part", [part for part, _ in PARTS])
def test_when_a_ray_it_attached_to_ends_the_run_says_so_in_one_line_of_its_own(part, cluster, tmp_path, monkeypatch):
    """Once one part is gone, 'ray start --block' ends the other: either may be named."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    address, starter = cluster
    said = said_without(part, starter, tmp_path, "--address", address)
    named = "|".join(re.escape(f"{name} ({part})") for part, name in PARTS)
    assert re.search(rf"error: Ray's ({named}) at \S+:\d+ is gone, and all layers with it", said)
