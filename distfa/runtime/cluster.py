"""This process's Ray session: attach to a cluster or start one, share it between runs, and end it.

Ray has one session per process, so its bookkeeping is per process too: who started it, and how many use it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import psutil
import ray
from ray._private import ray_constants

from distfa.errors import ClusterError
from distfa.runtime.placement import Node, in_words
from distfa.runtime.ray_errors import in_our_terms, told
from distfa.runtime.ray_token import PrivateToken
from distfa.transport.address import is_loopback, split

LOCAL = "local"
_STORE_FLOOR_BYTES = 128 * 2**20
_REACH_SECONDS = 5.0
_HEALTH_SECONDS = 20.0
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}


class _Session:
    """Who uses this process's Ray, and whose it is; ``lock`` guards all of it.

    Attributes:
        users: Runs that use it now.
        ours: Whether we initialised it, so that the last user ends it.
        token: Of a cluster that we started.
        process: That last used Ray through us; a forked child has another id.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.ours = False
        self.token: PrivateToken | None = None
        self.process = 0


_SESSION = _Session()


def start_ray(address: str | None, *, store_bytes: int = _STORE_FLOOR_BYTES) -> None:
    """Attach to a Ray cluster, or start one on this machine; ``stop_ray`` goes with every call.

    A Ray session this process already has, its user's own or another run's, is used as it is.

    Args:
        address: ``host:port``, ``auto``, or ``local`` for a cluster of our own; None for the one that RAY_ADDRESS
            names, as inside ``ray job submit``, or else ``local``.
        store_bytes: Object store of a cluster of our own.

    Raises:
        ClusterError: Nothing answers at the address, Ray does not start, this process is a forked child, or it
            uses another cluster already.
    """
    address = chosen(address)
    if _SESSION.process not in (0, os.getpid()) or (ray.is_initialized() and _forked()):
        raise ClusterError(
            f"this process ({os.getpid()}) was forked from one that uses Ray, and Ray does not survive a fork; start "
            "it with the 'spawn' method (multiprocessing.get_context('spawn')) or as a program of its own"
        )
    with _SESSION.lock:
        if ray.is_initialized():
            _require_same_cluster(address)
        else:
            _SESSION.users, _SESSION.ours = 0, True
            _initialise(address, store_bytes)
        _SESSION.process = os.getpid()
        _SESSION.users += 1


def stop_ray() -> None:
    """The caller is done with Ray; the last one of a session that we began ends it, and the cluster if it is ours."""
    if _SESSION.process != os.getpid():
        return
    with _SESSION.lock:
        _SESSION.users = max(0, _SESSION.users - 1)
        if _SESSION.users == 0 and _SESSION.ours:
            ray.shutdown()
            _SESSION.ours = False
            if _SESSION.token is not None:
                _SESSION.token.withdraw()
                _SESSION.token = None


def chosen(address: str | None) -> str:
    """The cluster that is meant: as given, or RAY_ADDRESS, or one of our own."""
    return address or os.environ.get(ray_constants.RAY_ADDRESS_ENVIRONMENT_VARIABLE) or LOCAL


def nodes() -> list[Node]:
    """Every live node, and what layers may get of it: all but what the Ray task we may be in holds itself."""
    with in_our_terms():
        alive = [node for node in ray.nodes() if node["Alive"]]
    here, held = _held_by_this_task()
    return [
        Node(
            address=node["NodeManagerAddress"],
            total={
                key: amount - (held.get(key, 0.0) if node["NodeID"] == here else 0.0)
                for key, amount in node["Resources"].items()
            },
        )
        for node in alive
    ]


def cluster_facts() -> list[tuple[str, str]]:
    """(address, resources in words) of every live node."""
    return [(node.address, in_words(node.total)) for node in nodes()]


def open_to_others() -> list[str]:
    """Addresses at which others on the network may use this cluster without a token; Ray is asked without one."""
    exposed = [node.address for node in nodes() if not is_loopback(node.address)]
    if not exposed:
        return []
    stranger = {key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")}
    try:
        answer = _ask(ray.get_runtime_context().gcs_address, {**stranger, "RAY_AUTH_MODE": "disabled"})
    except subprocess.TimeoutExpired:
        return []
    return [] if answer.returncode else exposed


def _held_by_this_task() -> tuple[str, dict[str, float]]:
    """(node, resources) of the Ray task or actor this process is; nothing in a driver."""
    context = ray.get_runtime_context()
    if context.worker.mode != ray.WORKER_MODE:
        return "", {}
    return context.get_node_id(), dict(context.get_assigned_resources())


def _forked() -> bool:
    """Whether Ray's own threads are missing: a forked child has none but Python's.

    Nothing is asked of Ray: in a forked child its sockets are the parent's, and using them ends the parent.
    """
    try:
        running = {thread.id for thread in psutil.Process().threads()}
    except psutil.Error:
        return False
    return running <= {thread.native_id for thread in threading.enumerate()}


def _require_same_cluster(address: str) -> None:
    """Refuse to run on another cluster than the one asked for."""
    if address in (LOCAL, "auto"):
        return
    asked, used = _host_port(address), ray.get_runtime_context().gcs_address
    host, port = split(used)
    if asked[1] == port and (asked[0] == host or _numbers(asked[0]) & _numbers(host)):
        return
    raise ClusterError(
        f"this process already uses the Ray cluster at {used}, and the run asks for {address}; call ray.shutdown() "
        "first, or leave the address out to use the cluster it has"
    )


def _numbers(host: str) -> set[str]:
    """A host's addresses as numbers; those of loopback are this machine's."""
    with contextlib.suppress(OSError):
        return {str(place[0]) for *_, place in socket.getaddrinfo(host, None)}
    return set()


def _initialise(address: str, store_bytes: int) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        if address == LOCAL:
            _start_here(store_bytes)
        else:
            if address != "auto":
                _reach(address)
            ray.init(address=address, **_QUIET)
    except ClusterError:
        raise
    except (ray.exceptions.RayError, AssertionError, ConnectionError, RuntimeError, ValueError, OSError) as exc:
        where = "start Ray on this machine" if address == LOCAL else f"attach to Ray at {address!r}"
        raise ClusterError(
            f"cannot {where}: {told(exc)}; is a cluster of the same Ray version ({ray.__version__}) running there? "
            "--address local starts one here"
            if address != LOCAL
            else f"cannot {where}: {told(exc)}; look at /tmp/ray/session_latest/logs, and run 'distfa doctor'"
        ) from exc


def _start_here(store_bytes: int) -> None:
    """A cluster of our own: on loopback alone, behind a token that lives as long as it."""
    token = PrivateToken()
    try:
        with _on_loopback():
            ray.init(
                address=LOCAL,
                include_dashboard=False,
                object_store_memory=store_bytes,
                _system_config={"worker_niceness": 0},  # Ray's default of 15 starves layers beside other work
                **_QUIET,
            )
    except BaseException:
        token.withdraw()
        raise
    _SESSION.token = token


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Let Ray listen on loopback, as it does on macOS, and use this very environment under 'uv run'.

    Ray reads both from the environment once, when it is imported; the user may have imported it long ago.
    """
    wanted = {"ENABLE_RAY_CLUSTER": False, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": False}
    before = {name: getattr(ray_constants, name) for name in wanted if hasattr(ray_constants, name)}
    for name in before:
        setattr(ray_constants, name, wanted[name])
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(ray_constants, name, value)


def _host_port(address: str) -> tuple[str, int]:
    """Of a cluster's address.

    Raises:
        ClusterError: It is none.
    """
    try:
        return split(address)
    except ValueError as exc:
        source = "RAY_ADDRESS" if address == os.environ.get("RAY_ADDRESS") else "address"
        hint = ""
        if address.startswith(("http://", "https://")):
            hint = "; that is the address of its dashboard: send the run there with 'ray job submit', or leave it out"
        elif address.startswith("ray://"):
            hint = "; Ray Client carries no layers: run on a node of the cluster, or send the run by 'ray job submit'"
        raise ClusterError(f"{source} {exc} (Ray's port is 6379 by default), nor 'auto', nor 'local'{hint}") from exc


def _reach(address: str) -> None:
    """Ray retries an address that does not answer for minutes; ask first whether a cluster is there.

    Ray's own health check asks, in a process that can be given up.

    Raises:
        ClusterError: Nobody listens there, no Ray cluster does, or it asks for a token.
    """
    host, port = _host_port(address)
    fix = f"start one there with 'ray start --head --port={port}', or take --address local to start one on this machine"
    try:
        socket.create_connection((host, port), timeout=_REACH_SECONDS).close()
    except OSError as exc:
        raise ClusterError(f"no Ray cluster answers at {address}: {exc}; {fix}") from exc
    try:
        answer = _ask(address, dict(os.environ))
    except subprocess.TimeoutExpired as exc:
        raise ClusterError(
            f"something listens at {address}, but no Ray cluster answers there within {_HEALTH_SECONDS:.0f} s; {fix}"
        ) from exc
    if "AuthenticationError" in answer.stderr or "InvalidAuthToken" in answer.stderr:
        raise ClusterError(
            f"the Ray cluster at {address} asks for a token; set RAY_AUTH_MODE=token, with the cluster's token in "
            "~/.ray/auth_token or RAY_AUTH_TOKEN ('ray get-auth-token' prints it on the head node)"
        )
    if answer.returncode:
        raise ClusterError(f"no healthy Ray cluster (version {ray.__version__}) answers at {address}; {fix}")


def _ask(address: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Ray's own health check, in a process that can be given up."""
    ask = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    return subprocess.run(ask, capture_output=True, text=True, timeout=_HEALTH_SECONDS, check=False, env=environment)
