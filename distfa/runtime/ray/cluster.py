"""The Ray session of this process: attach to a cluster or start one, share it between runs, and end it.

Ray has one session per process, so this file keeps one record per process: who started it, and how many use it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import psutil
import ray

from distfa.errors import ClusterError
from distfa.runtime.placement import Node, list_resources
from distfa.runtime.ray import private
from distfa.runtime.ray.errors import describe_error, translate_errors
from distfa.runtime.ray.place import require_loopback, require_place, store_directory
from distfa.runtime.ray.reach import AUTO, answers_without_token, find_cluster, is_same_place, refuses, require_cluster
from distfa.runtime.ray.token import PrivateToken
from distfa.transport.address import is_loopback, join_address

LOCAL = "local"
_VITAL = {"raylet": "agent (raylet)", "gcs_server": "control process (gcs_server)"}
_STORE_FLOOR_BYTES = 128 * 2**20
_CONFIG = {
    "prestart_worker_first_driver": False,  # a process per core, none of which a run would use
    "worker_niceness": 0,  # with Ray's default of 15, layers starve beside other work
    "kill_worker_timeout_milliseconds": 500,  # 5 s by default: a layer that hangs would take that long to be replaced
}
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}


class _Session:
    """Who uses the Ray of this process, and who started it; ``lock`` guards all of it.

    Attributes:
        users: How many runs use it now.
        ours: Whether distfa initialised it, so that the last user ends it.
        token: The token of a cluster that distfa started.
        needed: The parts of a cluster, to which this process attached, that it needs, and where they listen.
        process: Id of the process that last used Ray through distfa; a forked child has another one.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.ours = False
        self.token: PrivateToken | None = None
        self.needed: dict[str, str] = {}
        self.process = 0


_SESSION = _Session()


def start_ray(address: str | None, *, store_bytes: int = _STORE_FLOOR_BYTES) -> None:
    """Attach to a Ray cluster, or start one on this machine; every call needs a ``stop_ray``.

    If this process already has a Ray session, from its user or from another run, that session is used as it is.

    Args:
        address: ``host:port``, ``auto``, or ``local`` to start a cluster; None: the one that RAY_ADDRESS names, as
            inside ``ray job submit``, or else ``local``.
        store_bytes: Size of the object store, if a cluster is started.

    Raises:
        ClusterError: Nothing answers at the address, Ray does not start, this process is a forked child, or it
            uses another cluster already.
    """
    if _SESSION.process not in (0, os.getpid()) or (ray.is_initialized() and _forked()):
        raise ClusterError(
            f"this process ({os.getpid()}) was forked from one that uses Ray, and Ray does not survive a fork; start "
            "it with the 'spawn' method (multiprocessing.get_context('spawn')) or as a separate program"
        )
    with _SESSION.lock:
        if ray.is_initialized():
            if address not in (None, LOCAL, AUTO):
                _require_same_cluster(address)
            if not _SESSION.users:
                _SESSION.ours = False  # someone else initialised it
        else:
            _SESSION.users, _SESSION.ours = 0, False
            _initialise(choose_address(address), store_bytes)
            _SESSION.ours = True
        if not _SESSION.users:
            _SESSION.needed = _find_needed()
        _SESSION.process = os.getpid()
        _SESSION.users += 1


def stop_ray() -> None:
    """End one use of Ray. The last user ends a session that distfa began, and the cluster that distfa started."""
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


def why_ended() -> str | None:
    """Which part that this process's Ray needs has ended, in words; None while all is well.

    Ray does not report this: after seconds or a minute it ends this process, too, with its own message.
    """
    node = private.own_node()
    for part, process in node.dead_processes() if node is not None else ():
        if part in _VITAL:
            return f"Ray's {_VITAL[part]} on this machine died (exit code {process.returncode})"
    for part, address in _SESSION.needed.items():
        if refuses(address):
            return f"Ray's {_VITAL[part]} at {address} is gone"
    return None


def require_alive() -> None:
    """Make sure that this process's Ray still runs.

    Raises:
        ClusterError: It does not.
    """
    if (found := why_ended()) is not None:
        raise ClusterError(
            f"{found}, and all layers with it; look for the system's out-of-memory killer (dmesg) or a 'ray stop'"
        )


def choose_address(address: str | None) -> str:
    """The address to use: as given, or RAY_ADDRESS, or ``local``."""
    return address or os.environ.get(private.ADDRESS_VARIABLE) or LOCAL


def nodes() -> list[Node]:
    """Every live node with what layers may use of it: all but what the Ray task holds in which this code may run."""
    with translate_errors():
        alive = [node for node in ray.nodes() if node["Alive"]]
    here, held = _resources_of_this_task()
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
    return [(node.address, list_resources(node.total)) for node in nodes()]


def list_open_addresses() -> list[str]:
    """Addresses at which others on the network may use this cluster without a token; asks Ray without a token."""
    exposed = [node.address for node in nodes() if not is_loopback(node.address)]
    return exposed if exposed and answers_without_token(ray.get_runtime_context().gcs_address) else []


def _find_needed() -> dict[str, str]:
    """Where the control process of a cluster listens that this process attached to, and the agent on this node."""
    node, context = private.own_node(), ray.get_runtime_context()
    if node is not None and node.all_processes:
        return {}  # Ray started them here, and sees them end
    agents = {
        found["NodeID"]: join_address(found["NodeManagerAddress"], found["NodeManagerPort"])
        for found in ray.nodes()
        if found["Alive"]
    }
    places = {"gcs_server": context.gcs_address, "raylet": agents.get(context.get_node_id(), "")}
    return {part: address for part, address in places.items() if address and not refuses(address)}


def _resources_of_this_task() -> tuple[str, dict[str, float]]:
    """(node, resources) of the Ray task or actor that this process runs; nothing in a driver."""
    context = ray.get_runtime_context()
    if context.worker.mode != ray.WORKER_MODE:
        return "", {}
    return context.get_node_id(), dict(context.get_assigned_resources())


def _forked() -> bool:
    """Whether Ray's own threads are missing, as in a forked child, which has only Python's.

    This must not ask Ray: in a forked child the sockets are those of the parent, and using them ends the parent. The
    first thread of the child has the child's number, while Python still knows it by the parent's number.
    """
    try:
        running = {thread.id for thread in psutil.Process().threads()}
    except psutil.Error:
        return False
    return running <= {os.getpid(), *(thread.native_id for thread in threading.enumerate())}


_STARTS, _TOO_LATE = 3, "timed out during startup"


def _require_same_cluster(address: str) -> None:
    """Refuse to run on another cluster than the one asked for."""
    used = ray.get_runtime_context().gcs_address
    if is_same_place(address, used):
        return
    raise ClusterError(
        f"this process already uses the Ray cluster at {used}, but the run asks for {address}; call "
        "ray.shutdown() first, or leave the address out to use the current cluster"
    )


@contextlib.contextmanager
def _keep_own_handlers() -> Iterator[None]:
    """Keep what ends this process on SIGTERM: Ray's handlers print stack frames, and exit in their own way."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread() and before not in (None, signal.SIG_DFL):
        signal.signal(signal.SIGTERM, before)


def _initialise(address: str, store_bytes: int) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        with _keep_own_handlers():
            if address == LOCAL:
                _start_here(store_bytes)
            else:
                address = find_cluster() if address == AUTO else address
                require_cluster(address)
                ray.init(address=address, **_QUIET)
    except ClusterError:
        raise
    except (ray.exceptions.RayError, AssertionError, ConnectionError, RuntimeError, ValueError, OSError) as exc:
        said = describe_error(exc)
        where = "start Ray on this machine" if address == LOCAL else f"attach to Ray at {address!r}"
        raise ClusterError(
            f"cannot {where}: {said}; is a cluster of the same Ray version ({ray.__version__}) running there? "
            "--address local starts one here"
            if address != LOCAL
            else f"cannot {where}: {said}; check /tmp/ray/session_latest/logs, and run 'distfa doctor'"
        ) from exc


def _start_here(store_bytes: int) -> None:
    """Start a cluster that listens on loopback only and asks for a token, which lives as long as the cluster."""
    require_loopback()
    store = store_directory(require_place())
    token = PrivateToken()
    try:
        with _listen_on_loopback(), private.lean_node(), _ignore_hangups():
            for left in reversed(range(_STARTS)):
                if _try_to_start(store_bytes, store, last=not left):
                    break
    except BaseException:
        token.withdraw()
        raise
    _SESSION.token = token


def _try_to_start(store_bytes: int, store: str | None, *, last: bool) -> bool:
    """Try to start Ray; False, for a retry, if the machine is too busy to do so in the time that Ray gives itself.

    Raises:
        ClusterError: Ray did not start, and this was the last try.
    """
    try:
        ray.init(
            address=LOCAL,
            include_dashboard=False,
            object_store_memory=store_bytes,
            _plasma_directory=store,
            _system_config=_CONFIG,
            **_QUIET,
        )
    except Exception as exc:
        if _TOO_LATE not in str(exc):  # Ray raises it as a bare Exception
            raise
        ray.shutdown()
        if last:
            raise ClusterError(
                f"Ray did not start on this machine in {_STARTS} attempts of 30 s, its own limit; the load is "
                f"{os.getloadavg()[0]:.0f} on {os.cpu_count()} cores: wait until other work has ended, and start "
                "again"
            ) from exc
        return False
    return True


@contextlib.contextmanager
def _ignore_hangups() -> Iterator[None]:
    """Let Ray's processes ignore a closed terminal: this process ends in order then, and ends them."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGHUP) is None:
        yield
        return
    # a signal that is ignored at the start stays ignored across exec
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


@contextlib.contextmanager
def _listen_on_loopback() -> Iterator[None]:
    """Let Ray listen on loopback, as it does on macOS, and use this very environment under 'uv run'.

    Ray reads both settings from the environment once, when it is imported; the user may have imported it long ago.
    """
    with private.constants({"ENABLE_RAY_CLUSTER": False, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": False}):
        yield
