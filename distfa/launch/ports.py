"""Whether a block of ports is free on this machine: ``python -m distfa.launch.ports FIRST LAST``, in a SLURM job."""

from __future__ import annotations

import contextlib
import socket
import sys
from pathlib import Path

_GIVEN_AWAY = Path("/proc/sys/net/ipv4/ip_local_port_range")


def why_not(first: int, last: int) -> str | None:
    """Why some of these ports cannot be counted on; None if all can."""
    with contextlib.suppress(OSError):  # other systems have no such file
        low, high = map(int, _GIVEN_AWAY.read_text().split())
        if first <= high and last >= low:
            return f"the system gives ports {low}-{high} to connections ({_GIVEN_AWAY})"
    for port in range(first, last + 1):
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections hold nothing
            try:
                one.bind(("", port))
            except OSError as exc:
                return f"port {port} is taken ({exc.strerror})"
    return None


if __name__ == "__main__":
    if found := why_not(int(sys.argv[1]), int(sys.argv[2])):
        sys.exit(f"{socket.gethostname()}: ports {sys.argv[1]}-{sys.argv[2]} are not free: {found}")
