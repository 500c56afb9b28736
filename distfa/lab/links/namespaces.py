"""Nodes on one machine: each is a network namespace on a bridge, with its link shaped to a rate in both directions.

                 bridge
        veth ____/  |  \\____ veth          root namespace: counters, the rate towards a node
             |      |      |
            eth0   eth0   eth0              one namespace per node: the rate from it
           node 1 node 2 node 3

Everything has unique names, and nothing else is ever touched. Packets are as long as the link takes (no segmentation
offload), so that counters include every header.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
from pathlib import Path

from distfa.errors import BenchError
from distfa.measuring.subprocesses import delay_interrupts

INTERFACE = "eth0"  # the interface of every node, inside its namespace
MAX_NODES = 250
_QUEUE_BYTES = 2**20
_LEAST_BURST_BYTES = 32 * 1024
_COMMAND_SECONDS = 20.0


class Nodes:
    """Nodes 1..count: a context manager that ends what runs in them and removes what it made.

    Args:
        count: How many nodes.
        megabits_per_second: Rate of every node's link in each direction; None for as fast as the machine copies.

    Attributes:
        name: What the names of the bridge, the namespaces and the links begin with.
        owner: The process that made them.
    """

    def __init__(self, count: int, *, megabits_per_second: float | None = None) -> None:
        if not 1 <= count <= MAX_NODES:
            raise BenchError(f"{count} nodes are requested; 1 to {MAX_NODES} fit on one bridge")
        if megabits_per_second is not None and megabits_per_second <= 0:
            raise BenchError(f"the link's rate is {megabits_per_second} Mbit/s; it must be above 0")
        self._nodes = range(1, count + 1)
        self._rate = megabits_per_second
        self.owner = os.getpid()
        self.name = f"node{secrets.token_hex(3)}"

    def __enter__(self) -> Nodes:
        """Make the nodes.

        Raises:
            BenchError: The rights or the tools for that are missing on this machine.
        """
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        with delay_interrupts():
            for node in self._nodes:
                _kill(_run("ip", "netns", "pids", self._namespace(node), check=False))
                _run("ip", "link", "del", self._veth(node), check=False)
                _run("ip", "netns", "del", self._namespace(node), check=False)
            _run("ip", "link", "del", self._bridge, check=False)

    def command(self, node: int) -> list[str]:
        """The words before a command line that run it on a node."""
        return ["ip", "netns", "exec", self._namespace(node)]

    def address(self, node: int) -> str:
        """The address of a node: in the range for benchmarks (RFC 2544); only the other nodes can reach it."""
        return f"198.18.0.{node}"

    def lose(self, node: int) -> None:
        """Kill everything that runs on a node, as when its power fails."""
        _kill(_run("ip", "netns", "pids", self._namespace(node)))

    def unplug(self, node: int) -> None:
        """Take a node off the network; its processes keep running."""
        _run("ip", "link", "set", self._veth(node), "down")

    def sent_bytes(self) -> dict[int, int]:
        """Bytes that each node has sent so far; see the function ``sent_bytes``."""
        return sent_bytes(self.name, self.owner)

    @property
    def _bridge(self) -> str:
        return f"{self.name}b"

    def _namespace(self, node: int) -> str:
        return f"{self.name}n{node}"

    def _veth(self, node: int) -> str:
        return f"{self.name}v{node}"

    def _make(self) -> None:
        _run("ip", "link", "add", self._bridge, "type", "bridge")
        _run("ip", "link", "set", self._bridge, "up")
        for node in self._nodes:
            namespace, veth = self._namespace(node), self._veth(node)
            inside = ("ip", "-n", namespace)
            _run("ip", "netns", "add", namespace)
            _run("ip", "link", "add", veth, "type", "veth", "peer", "name", INTERFACE, "netns", namespace)
            _run("ip", "link", "set", veth, "gso_max_segs", "1", "master", self._bridge, "up")
            _run(*inside, "addr", "add", f"{self.address(node)}/24", "dev", INTERFACE)
            _run(*inside, "link", "set", INTERFACE, "gso_max_segs", "1", "up")
            _run(*inside, "link", "set", "lo", "up")
            _run(*inside, "route", "add", "default", "dev", INTERFACE)  # programs find their own address with it
            if self._rate is not None:
                self._shape("tc", device=veth)
                self._shape("tc", "-n", namespace, device=INTERFACE)

    def _shape(self, *tc: str, device: str) -> None:
        """Put a token bucket of 10 ms on what a device sends."""
        bits = round(1e6 * (self._rate or 0))
        bucket = str(max(_LEAST_BURST_BYTES, bits // 800))
        rate = ("rate", f"{bits}bit", "burst", bucket, "limit", str(_QUEUE_BYTES))
        _run(*tc, "qdisc", "add", "dev", device, "root", "tbf", *rate)


def sent_bytes(name: str, owner: int) -> dict[int, int]:
    """Bytes that the interface of every node has sent so far, including the headers of Ethernet, IP and TCP.

    Args:
        name: ``Nodes.name``.
        owner: The process that made the nodes: its network has the counters of all nodes, a node's network has not.
    """
    table = Path(f"/proc/{owner}/net/dev").read_text()
    return {int(node): int(received) for node, received in re.findall(rf"{name}v(\d+): *(\d+)", table)}


def obstacle() -> str | None:
    """Why shaped nodes cannot be made on this machine; None if they can."""
    try:
        with Nodes(1, megabits_per_second=100.0):
            return None
    except BenchError as exc:
        return str(exc)


def _run(*command: str, check: bool = True) -> str:
    """Run a command; returns what it prints.

    Raises:
        BenchError: The command does not exist, or it failed where it must not.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        if not check:
            return ""
        raise BenchError(f"cannot run {command[0]!r}: {exc}; network namespaces need Linux with iproute2") from exc
    if check and done.returncode:
        raise BenchError(
            f"cannot make a network namespace: '{' '.join(command)}' says {done.stderr.strip()!r}; this needs "
            "root (CAP_NET_ADMIN and CAP_SYS_ADMIN)"
        )
    return done.stdout


def _kill(pids: str) -> None:
    """End processes; all that run in one of these namespaces belong to the nodes."""
    for pid in pids.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
