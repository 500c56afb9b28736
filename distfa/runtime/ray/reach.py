"""Whether a Ray cluster answers at an address; checked first, because Ray itself would retry for minutes."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys

import ray

from distfa.errors import ClusterError
from distfa.runtime.ray import private
from distfa.transport.address import is_here, is_loopback, split_address

AUTO = "auto"
_REACH_SECONDS = 5.0
_HEALTH_SECONDS = 20.0
_GLANCE_SECONDS = 1.0


def find_cluster() -> str:
    """The address that ``auto`` means: what Ray finds on this machine, by its processes or its file.

    Raises:
        ConnectionError: Ray finds no cluster.
        ClusterError: What Ray noted is not there any more; else Ray would look for it for minutes.
    """
    found = private.find_address(AUTO)
    if refuses(found):
        raise ClusterError(
            f"address 'auto' is the cluster at {found}, according to Ray's file ray_current_cluster, but nothing "
            "listens there any more; remove that file ('ray stop' does), start a cluster with 'ray start "
            "--head', or use --address local to start one on this machine"
        )
    return found


def host_port(address: str) -> tuple[str, int]:
    """Host and port of a cluster's address.

    Raises:
        ClusterError: It is not such an address.
    """
    try:
        return split_address(address)
    except ValueError as exc:
        source = "RAY_ADDRESS" if address == os.environ.get("RAY_ADDRESS") else "address"
        hint = ""
        if address.startswith(("http://", "https://")):
            hint = "; that is the address of its dashboard: submit the run there with 'ray job submit', or leave it out"
        elif address.startswith("ray://"):
            hint = (
                "; Ray Client cannot run layers: run on a node of the cluster, or submit the run with 'ray job submit'"
            )
        raise ClusterError(f"{source} {exc} (Ray's port is 6379 by default), nor 'auto', nor 'local'{hint}") from exc


def require_cluster(address: str) -> None:
    """Make sure that a healthy Ray cluster is there and lets this process in.

    Raises:
        ClusterError: Nothing listens there, it is not a Ray cluster, or it requires a token.
    """
    host, port = host_port(address)
    fix = f"start one there with 'ray start --head --port={port}', or use --address local to start one on this machine"
    try:
        socket.create_connection((host, port), timeout=_REACH_SECONDS).close()
    except socket.gaierror as exc:
        raise ClusterError(
            f"the Ray cluster's address is {address}, but the host {host!r} cannot be resolved ({exc.strerror}); "
            "check the name, or give its IP address"
        ) from exc
    except OSError as exc:
        raise ClusterError(f"no Ray cluster answers at {address}: {exc.strerror or exc}; {fix}") from exc
    try:
        answer = _ask(address, dict(os.environ))
    except subprocess.TimeoutExpired as exc:
        raise ClusterError(
            f"something listens at {address}, but no Ray cluster answers there within {_HEALTH_SECONDS:.0f} s; {fix}"
        ) from exc
    if "AuthenticationError" in answer.stderr or "InvalidAuthToken" in answer.stderr:
        said = "rejects this process's token" if os.environ.get("RAY_AUTH_MODE") == "token" else "requires a token"
        raise ClusterError(
            f"the Ray cluster at {address} {said}; set RAY_AUTH_MODE=token, with the cluster's token in "
            "~/.ray/auth_token or RAY_AUTH_TOKEN ('ray get-auth-token' prints it on the head node)"
        )
    if answer.returncode:
        raise ClusterError(f"no healthy Ray cluster (version {ray.__version__}) answers at {address}; {fix}")


def refuses(address: str) -> bool:
    """Whether the machine says that nobody listens there; a machine that is busy or cut off does not answer."""
    try:
        socket.create_connection(host_port(address), timeout=_GLANCE_SECONDS).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def answers_without_token(address: str) -> bool:
    """Whether the cluster answers without a token."""
    stranger = {key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")}
    try:
        return _ask(address, {**stranger, "RAY_AUTH_MODE": "disabled"}).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def is_same_place(one: str, other: str) -> bool:
    """Whether two addresses mean the same: equal, or names of one host, or both of this machine."""
    (host, port), (other_host, other_port) = host_port(one), host_port(other)
    if port != other_port:
        return False
    mine, theirs = _numbers(host), _numbers(other_host)
    return host == other_host or bool(mine & theirs) or (any(map(is_loopback, mine)) and is_here(other_host))


def _numbers(host: str) -> set[str]:
    """The numeric addresses of a host."""
    with contextlib.suppress(OSError):
        return {str(place[0]) for *_, place in socket.getaddrinfo(host, None)}
    return set()


def _ask(address: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Ray's own health check, in a process that can be ended."""
    ask = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    return subprocess.run(ask, capture_output=True, text=True, timeout=_HEALTH_SECONDS, check=False, env=environment)
