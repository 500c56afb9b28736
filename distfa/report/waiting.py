"""Which layers wait for whom, in words."""

from __future__ import annotations

from collections.abc import Sequence

from distfa.report.columns import Row

_STILL_SECONDS = 4.0


def stall(layers: Sequence[Row]) -> str:
    """Who is waiting for whom, once every layer has been stuck for a while; empty while layers make progress."""
    if any(row.get("since_seconds", 0.0) < _STILL_SECONDS for row in layers):
        return ""
    parts = [
        f"layer {row['layer']} "
        + (
            f"has waited {row['since_seconds']:.0f} s for {row['waiting_for']}"
            if row["waiting_for"]
            else f"has been computing for {row['since_seconds']:.0f} s"
        )
        for row in layers
    ]
    return f"no step finishes: {', '.join(parts)}" if parts else ""


def waits(layers: Sequence[Row]) -> str:
    """Who was waiting for whom when the layers last reported, or who is stuck; empty if none was waiting."""
    parts = [
        f"layer {row['layer']} for {row['waiting_for'].partition(' across ')[0]}"
        for row in layers
        if row.get("waiting_for")
    ]
    return stall(layers) or (f"waiting: {', '.join(parts)}" if parts else "")
