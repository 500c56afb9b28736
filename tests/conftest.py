"""For all tests."""

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

_MOST_WORKERS = 4


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A process per core for all of the tests; those asked for by name run in this one, where a debugger works."""
    if config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return 0
    return min(_MOST_WORKERS, os.cpu_count() or 1)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB; mounting one needs root."""
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], check=False).returncode:
        pytest.skip("needs the right to mount a small file system (root)")
    yield place
    subprocess.run(["umount", place], check=True)
