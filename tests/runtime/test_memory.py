"""A layer takes memory until it is ended for it, by Ray or by the system: the run goes on and nothing is lost.

The run is in a memory cgroup of its own and sees it as a container sees its own, so that the machine lacks nothing.
"""

import json
import os
import secrets
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from commands import command
from needs import needs

LIMIT_BYTES = 2 * 10**9
V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
ROOT, LIMIT, COUNT = (
    (V1, "memory.limit_in_bytes", "memory.oom_control") if V1.exists() else (V2, "memory.max", "memory.events")
)
ENTER = 'echo $$ > "$0/cgroup.procs" && mount --bind "$0" "$1" && shift && exec "$@"'


class MemoryLimit:
    """A memory cgroup; a context manager that removes it."""

    def __init__(self):
        self.folder = ROOT / f"distfa{secrets.token_hex(3)}"

    def __enter__(self):
        self.folder.mkdir()
        (self.folder / LIMIT).write_text(str(LIMIT_BYTES))
        return self

    def __exit__(self, *exc):
        left, give_up = self.folder / "cgroup.procs", time.monotonic() + 60
        while (pids := left.read_text().split()) and time.monotonic() < give_up:
            for pid in map(int, pids):
                if psutil.pid_exists(pid):
                    psutil.Process(pid).kill()
            time.sleep(0.2)
        self.folder.rmdir()

    def inside(self, *args):
        """What starts a command in it."""
        return ["unshare", "--mount", "sh", "-c", ENTER, str(self.folder), str(ROOT), *args]

    def ended_by_system(self):
        """How many processes the system has ended in it, for want of memory."""
        return int(dict(line.split() for line in (self.folder / COUNT).read_text().splitlines())["oom_kill"])


def obstacle():
    """Why there can be no memory cgroup here; None if there can."""
    try:
        with MemoryLimit() as limit:
            subprocess.run(limit.inside("true"), check=True, capture_output=True, text=True, timeout=20)
    except subprocess.CalledProcessError as exc:
        return exc.stderr.strip()
    except OSError as exc:
        return str(exc)
    return None


pytestmark = [
    needs("memory cgroup", obstacle(), else_untested="a layer without memory"),
    pytest.mark.slow,
]
BENCH = ["bench", "faults", "--kinds", "memory", "--no-alone", "--epochs", "60", "--json"]
SOAK = ["--soak", "3", "--seed", "35"]
LAYERS = (1, 2, 3)  # where that seed sends them; the last in time for the seconds that it takes to fill the memory


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("by", "threshold", "said"),
    [
        ("ray", "0.8", "Ray killed its process, because its node ran out of memory"),
        ("system", "1", "look for the system's out-of-memory killer (dmesg)"),
    ],
)
def test_any_layer_out_of_memory_is_replaced_and_nothing_is_lost(by, threshold, said, tmp_path):
    """The command fails if weights or books differ from the serial engine's."""
    settings = {
        "RAY_memory_usage_threshold": threshold,
        "RAY_memory_monitor_refresh_ms": "0" if by == "system" else "100",
    }
    with MemoryLimit() as limit:
        done = subprocess.run(
            limit.inside(*command(*BENCH, *SOAK)),
            cwd=tmp_path,
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            timeout=1100,
            check=False,
        )
        ended = limit.ended_by_system()
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    print(json.dumps(outcome["raw"]))
    assert [(row["schedule"], row["recovered"]) for row in outcome["rows"]] == [("sync", 3), ("async", 3)]
    assert ended >= 6 if by == "system" else ended == 0
    for case in outcome["raw"]:
        faults = [entry for entry in case["recoveries"] if "fault" in entry]
        assert [(entry["fault"], entry["layer"]) for entry in faults] == [("memory", layer) for layer in LAYERS]
        assert all(said in entry["cause"] for entry in faults), faults
    assert said in done.stderr
