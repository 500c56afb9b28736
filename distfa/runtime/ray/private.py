"""Everything of Ray that is used here and is not public: it may change with any release of Ray.

The range of Ray in pyproject.toml ends at the newest release that the tests have run on, because of this file.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import ray
from ray._private import ray_constants
from ray._private.parameter import RayParams

ADDRESS_VARIABLE: str = ray_constants.RAY_ADDRESS_ENVIRONMENT_VARIABLE


def own_node() -> Any | None:
    """The node whose Ray processes this process started or attached to; None before Ray is there."""
    return ray._private.worker._global_node


def find_address(address: str) -> str:
    """The address of the cluster that Ray finds on this machine, by its processes or its file.

    Raises:
        ConnectionError: Ray finds no cluster.
    """
    return str(ray._private.services.canonicalize_bootstrap_address(address))


def has_autoscaler() -> bool:
    """Whether the cluster has one; without an answer it counts as a cluster of fixed size."""
    with contextlib.suppress(Exception):
        return ray._private.state.state.get_max_resources_from_cluster_config() is not None
    return False


def knows_tokens() -> bool:
    """Whether this Ray asks strangers for a token (2.52 and later)."""
    return hasattr(ray._raylet, "AuthenticationTokenLoader")


def read_token_again() -> None:
    """Let Ray forget the token that it read from the environment, and read it anew."""
    ray._raylet.Config.initialize("")
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def lean_node() -> Iterator[None]:
    """Let Ray start without processes that do nothing for a run: for logs, for autoscaling, and for usage statistics.

    Ray starts the one of its dashboard even without a dashboard, and waits for it.
    """
    services = ray._private.services
    plain = RayParams.__init__, services.start_api_server
    RayParams.__init__ = functools.partialmethod(RayParams.__init__, include_log_monitor=False, no_monitor=True)
    services.start_api_server = lambda *_, **__: (None, None)  # Ray's own answer where it could not start one
    try:
        yield
    finally:
        RayParams.__init__, services.start_api_server = plain


@contextlib.contextmanager
def constants(wanted: Mapping[str, object]) -> Iterator[None]:
    """Give Ray's constants other values for a while; those that this Ray does not have are left out."""
    before = {name: getattr(ray_constants, name) for name in wanted if hasattr(ray_constants, name)}
    for name in before:
        setattr(ray_constants, name, wanted[name])
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(ray_constants, name, value)
