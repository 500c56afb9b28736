"""A Ray cluster over network namespaces: one Ray node in each, the head in the first."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from distfa.errors import BenchError
from distfa.lab.links.namespaces import Nodes

_PORT = 6379
_STORE_BYTES = 256 * 2**20
_START_SECONDS = 120.0
_STOP_SECONDS = 10.0
_UP = "Ray runtime started"
_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # with Ray's default of 15, layers starve when anything else runs
}


class RayNodes:
    """One Ray node per network node: a context manager that leaves no process and no file.

    They ask for a token, which ``environment`` holds. Every node has a custom resource ``node1``,
    ``node2``, ..., so that a layer can be put on it.
    """

    def __init__(self, nodes: Nodes, count: int) -> None:
        self._nodes = nodes
        self._count = count
        self._running: list[subprocess.Popen[bytes]] = []
        self._folder = Path()
        self.environment = {**os.environ, **_ENVIRONMENT, "RAY_AUTH_TOKEN": secrets.token_hex(32)}

    @property
    def address(self) -> str:
        """The address that a driver on the first node attaches to."""
        return f"{self._nodes.address(1)}:{_PORT}"

    def __enter__(self) -> RayNodes:
        """Start the head, then all others at once.

        Raises:
            BenchError: A node did not start.
        """
        self._folder = Path(tempfile.mkdtemp(prefix="nodes"))
        try:
            self._start(1, "--head", f"--port={_PORT}", "--include-dashboard=false")
            self._wait([1])
            others = list(range(2, self._count + 1))
            for node in others:
                self._start(node, f"--address={self.address}")
            self._wait(others)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for process in reversed(self._running):
            process.terminate()
        give_up = time.monotonic() + _STOP_SECONDS
        for process in self._running:
            try:
                process.wait(max(0.0, give_up - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, node: int, *options: str) -> None:
        command = [*self._nodes.command(node), sys.executable, "-m", "ray.scripts.scripts", "start", *options]
        command += [f"--node-ip-address={self._nodes.address(node)}", "--num-cpus=1", "--block"]
        command += [f"--resources={json.dumps({f'node{node}': 1})}", f"--object-store-memory={_STORE_BYTES}"]
        command += [f"--temp-dir={self._folder / str(node)}"]
        with self._log(node).open("wb") as log:
            self._running.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self.environment,
                    start_new_session=True,
                )
            )

    def _log(self, node: int) -> Path:
        return self._folder / f"{node}.log"

    def _wait(self, waited_for: list[int]) -> None:
        give_up = time.monotonic() + _START_SECONDS
        for node in waited_for:
            while _UP not in (said := self._log(node).read_text(errors="replace")):
                ended = self._running[node - 1].poll() is not None
                if ended or time.monotonic() > give_up:
                    why = "ended" if ended else f"was not up within {_START_SECONDS:.0f} s"
                    last = (said.strip().splitlines() or ["nothing"])[-1]
                    raise BenchError(f"the Ray node {node} of {self._count} {why}; its last output: {last}")
                time.sleep(0.1)
