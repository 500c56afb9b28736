"""A SLURM cluster of two nodes on one machine: slurmctld, slurmd and munged of Debian, a network, process and mount
namespace for each node, so that each has its own address, its own processes and its own /tmp."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from distfa.lab.links.namespaces import Nodes, obstacle

ROOT = Path(__file__).parents[1]
_IDLE_SECONDS = 180.0  # jobs that were cancelled may take KillWait to end
_CGROUPS = "mount -t tmpfs none /sys/fs/cgroup && mkdir /sys/fs/cgroup/freezer"  # slurmd looks for v1's, and uses none
_CONF = """\
ClusterName=distfa
SlurmctldHost=n1({first})
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CryptoType=crypto/munge
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=60
UnkillableStepTimeout=600
SlurmdParameters=config_overrides
NodeName=n1 NodeAddr={first} CPUs=2 RealMemory=8000 State=UNKNOWN
NodeName=n2 NodeAddr={second} CPUs=2 RealMemory=8000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP OverSubscribe=YES:2
"""


def why_not() -> str | None:
    """Why there can be no SLURM here; None if there can."""
    missing = [name for name in ("slurmctld", "slurmd", "munged", "sbatch", "unshare") if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed (Debian: apt install slurmctld slurmd slurm-client munge)"
    return obstacle()


class SlurmNodes:
    """The cluster; a context manager that leaves no process and no file.

    Attributes:
        folder: That both nodes see; jobs are submitted there.
        environment: Of whoever submits.
    """

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix="slurm", dir="/var/tmp"))  # each node has a /tmp of its own
        own = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "SLURM"))}
        path = f"{Path(sys.executable).parent}:{own['PATH']}"
        self.environment = {
            **own,
            "PATH": path,
            "PYTHONPATH": str(ROOT),
            "SLURM_CONF": str(self.folder / "slurm.conf"),
        }

    def __enter__(self) -> SlurmNodes:
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        try:
            self._nodes = self._stack.enter_context(Nodes(2))
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def await_idle(self) -> None:
        """Wait until no job is left on the nodes."""
        self._until(self._up, "the nodes are not idle")

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command on the first node, in the folder."""
        done = subprocess.run(
            [*self._nodes.command(1), *command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr + self.said()
        return done

    def started(self, *command: str) -> subprocess.Popen[str]:
        """A command on the first node, in the folder, that goes on; what it says on stderr can be read."""
        return subprocess.Popen(
            [*self._nodes.command(1), *command],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def said(self) -> str:
        """Last words of the daemons."""
        logs = sorted(self.folder.glob("*.log"))
        return "".join(f"\n{log.name}:\n{log.read_text(errors='replace')[-2000:]}" for log in logs)

    def _start(self) -> None:
        first, second = self._nodes.address(1), self._nodes.address(2)
        (self.folder / "slurm.conf").write_text(_CONF.format(first=first, second=second, folder=self.folder))
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        (self.folder / "state").mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        self.folder.chmod(0o755)
        files = [f"--{name}-file={self.folder}/munge.{name}" for name in ("key", "log", "pid", "seed")]
        self._daemon(1, "munged", f"munged --foreground --force --socket={self.folder}/munge.sock {' '.join(files)}")
        self._until(lambda: (self.folder / "munge.sock").exists(), "munged does not listen")
        self._daemon(1, "slurmctld", "slurmctld -D")
        for node in (1, 2):
            self._daemon(
                node,
                f"slurmd{node}",
                f"mount -t tmpfs none /tmp && mkdir -p {self.folder}/spool-n{node} && {_CGROUPS} && slurmd -D",
            )
        self.await_idle()

    def _daemon(self, node: int, name: str, command: str) -> None:
        inside = f"hostname n{node} && {command}"
        apart = ["unshare", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        log = self._stack.enter_context((self.folder / f"{name}.log").open("wb"))
        process = subprocess.Popen(
            [*self._nodes.command(node), *apart, "sh", "-c", inside],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=self.environment,
            start_new_session=True,
        )
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)

    def _up(self) -> bool:
        return self.run("sinfo", "--noheader", "--format=%T %D", check=False).stdout.strip() == "idle 2"

    def _until(self, condition, trouble: str) -> None:
        give_up = time.monotonic() + _IDLE_SECONDS
        while not condition():
            assert time.monotonic() < give_up, trouble + self.said()
            time.sleep(0.5)
