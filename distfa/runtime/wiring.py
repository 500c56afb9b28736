"""Where each layer listens, at which address the others find it, and whether with TLS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distfa.errors import ClusterError
from distfa.transport.address import is_loopback, is_wildcard

_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Wiring:
    """How the layers are connected.

    Attributes:
        security: ``tls`` or ``insecure``.
        hosts: Where each layer listens.
        advertised: Where the others find it.
    """

    security: str
    hosts: tuple[str, ...]
    advertised: tuple[str, ...]


def wire_up(host: str, security: str, places: Sequence[tuple[str, str]]) -> Wiring:
    """On one node: loopback in plain text. Across nodes, or wherever others can reach a layer: mutual TLS.

    Args:
        host: ``wire.host``: empty, or where to listen on every node.
        security: ``auto``, ``tls`` or ``insecure``: only the last means plain text beyond loopback.
        places: (node's id, node's address) per layer.

    Raises:
        ClusterError: Layers on several nodes are to listen on one address.
    """
    nodes = {node for node, _ in places}
    addresses = tuple(address for _, address in places)
    everywhere = bool(host) and is_wildcard(host)
    if len(nodes) > 1 and host and not everywhere:
        raise ClusterError(
            f"wire.host is {host!r}, but the layers are on {len(nodes)} nodes "
            f"({', '.join(sorted(set(addresses)))}); leave it empty, so that each layer listens on its own node's "
            "address"
        )
    if everywhere:
        hosts, advertised = (host,) * len(places), addresses
    elif host or len(nodes) == 1:
        hosts = advertised = (host or _LOOPBACK,) * len(places)
    else:
        hosts = advertised = addresses
    if security == "auto":
        security = "insecure" if all(is_loopback(listened) for listened in hosts) else "tls"
    return Wiring(security=security, hosts=hosts, advertised=advertised)
