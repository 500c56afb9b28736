"""For all tests."""

import contextlib
import os
import signal
import subprocess

import pytest

# A shell starts background jobs with SIGINT ignored, and what they start inherits that: tests that interrupt
# a child would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)

# For torch, before anything imports it: threads of several test processes on one core spin while they wait for each
# other, which doubles the time of small networks. Runs compute with one thread anyway.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What tests write need not outlive a power cut, and a disk takes milliseconds to make sure of each file.
os.fsync = lambda file: None

# Clusters of the tests' own begin without idle processes, as those of distfa do.
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")

_MOST_WORKERS = 4


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A process per core for all of the tests; those asked for by name run in this one, where a debugger works."""
    if config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return 0
    return min(_MOST_WORKERS, os.cpu_count() or 1)


_shared = contextlib.ExitStack()


@pytest.fixture(scope="module")
def shared_ray():
    """A Ray session of this process, for all files that name this fixture: their runs use it as it is."""
    import ray

    from distfa.runtime.ray.cluster import start_ray, stop_ray

    if not ray.is_initialized():
        start_ray(None)
        _shared.callback(stop_ray)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that share Ray come first, one after another, so that a process starts it once."""
    items.sort(key=lambda item: "shared_ray" not in item.fixturenames)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Other files have no Ray but what they start."""
    if "shared_ray" not in item.fixturenames:
        _shared.close()


def pytest_sessionfinish() -> None:
    """End it where the last file was one that shares it."""
    _shared.close()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB; mounting one needs root."""
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], check=False).returncode:
        pytest.skip("needs the right to mount a small file system (root)")
    yield place
    subprocess.run(["umount", place], check=True)
