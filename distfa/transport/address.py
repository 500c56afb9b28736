"""Addresses as text: host and port, which hosts are this machine's, and ranges of ports."""

from __future__ import annotations

import contextlib
import ipaddress
import socket

import psutil

_WILDCARDS = ("", "*", "0.0.0.0", "::")
_LAST_PORT = 65535
_HOLDERS_SHOWN = 5


def join_address(host: str, port: int) -> str:
    """``host:port``, an IPv6 address in brackets."""
    bare = host.strip("[]")
    return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"


def split_address(address: str) -> tuple[str, int]:
    """(host without brackets, port) of ``host:port``.

    Raises:
        ValueError: It is neither ``host:port`` nor ``[IPv6]:port``.
    """
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host.strip("[]") or not port.isdigit() or int(port) > _LAST_PORT:
        raise ValueError(f"{address!r} is not host:port")
    if ":" in host and not bracketed:
        raise ValueError(f"{address!r} is an IPv6 address; write it in brackets, like [{host}]:{port}")
    return host.strip("[]"), int(port)


def is_wildcard(host: str) -> bool:
    """Whether listening there means listening on every address of the machine."""
    return host.strip("[]") in _WILDCARDS


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it; a name other than localhost counts as reachable from others."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def is_here(host: str) -> bool:
    """Whether this machine can listen on ``host``."""
    with contextlib.suppress(OSError):
        for family, kind, proto, _, place in socket.getaddrinfo(host.strip("[]") or None, 0, type=socket.SOCK_STREAM):
            with contextlib.suppress(OSError), socket.socket(family, kind, proto) as trial:
                trial.bind(place)
                return True
    return False


def port_range(text: str) -> range | None:
    """``20000-20100``, both ends included, or one port; None for an empty text: the system chooses.

    Raises:
        ValueError: It is not such a range.
    """
    if not text:
        return None
    first, dash, last = text.replace(" ", "").partition("-")
    last = last if dash else first
    if not (first.isdigit() and last.isdigit() and 0 < int(first) <= int(last) <= _LAST_PORT):
        raise ValueError(f"is not a range of ports such as 20000-20100, within 1-{_LAST_PORT}")
    return range(int(first), int(last) + 1)


def holders(ports: range) -> str:
    """Who listens on these ports of this machine, in words, as far as the system tells."""
    held: dict[int, str] = {}
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port in ports:
                held[connection.laddr.port] = _process(connection.pid)
    shown = [f"{port} by {who}" for port, who in sorted(held.items())[:_HOLDERS_SHOWN]]
    more = len(held) - len(shown)
    return (
        ", ".join(shown) + (f" and {more} more" if more else "")
        if shown
        else ("the system does not say by which process")
    )


def _process(pid: int | None) -> str:
    if pid is None:
        return "a process of another user"
    try:
        return f"{psutil.Process(pid).name()} (pid {pid})"
    except psutil.Error:
        return f"pid {pid}"
