"""For all tests."""

import os
import signal
import subprocess

import pytest

# A shell starts background jobs with SIGINT ignored, and what they start inherits that: tests that interrupt
# a child would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)

_MOST_WORKERS = 4


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """For all of the tests a process more than there are cores, since many wait for Ray or for a deadline.

    Those asked for by name run in this process, where a debugger works.
    """
    if config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return 0
    return min(_MOST_WORKERS, 1 + (os.cpu_count() or 1))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB; mounting one needs root."""
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], check=False).returncode:
        pytest.skip("needs the right to mount a small file system (root)")
    yield place
    subprocess.run(["umount", place], check=True)
