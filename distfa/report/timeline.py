"""The figure of a few steps: which layer did what and when, and which waited."""

from __future__ import annotations

from typing import Any

from distfa.pages.plots import Figure, Trace, panels
from distfa.report.record import Row
from distfa.report.records import Run

_TITLE = "Timeline of a few steps"
_KINDS = {
    "forward": ("forward", "#0072B2"),
    "backward": ("backward", "#E69F00"),
    "update": ("update", "#009E73"),
    "begin": ("probe", "#CC79A7"),
    "evaluate": ("evaluation", "#7b8794"),
}
_WAITING = "#E4E8EC"


def timeline(run: Run) -> Figure:
    """One row per layer, time to the right."""
    rows = [row for row in run.timelines if row["spans"]]
    if not rows:
        why = "Layers hand in their timelines at the end of a run on Ray; this one left none."
        return Figure(name="timeline", title=_TITLE, see=why)
    zero = min(span["start"] for row in rows for span in row["spans"])
    traces: list[Trace] = [
        _bars(
            "waiting",
            _WAITING,
            [(row, span, span["start"], span["waited"]) for row in rows for span in row["spans"]],
            zero,
        )
    ]
    for kind, (name, hue) in _KINDS.items():
        found = [
            (row, span, span["start"] + span["waited"], span["end"] - span["start"] - span["waited"])
            for row in rows
            for span in row["spans"]
            if span.get("operation") == kind
        ]
        if found:
            traces.append(_bars(name, hue, found, zero))
    layout = panels([""], columns=1, x_title="milliseconds") | {"barmode": "overlay", "bargap": 0.3}
    layout["yaxis"]["autorange"] = "reversed"
    layout["height"] = 130 + 42 * len(rows)
    steps = sorted({span["step"] for row in rows for span in row["spans"]})
    see = (
        f"Steps {steps[0]} to {steps[-1]}, by the clocks of the layers' machines; point at a bar for its step and "
        "micro-batch. An operation waits before it works: gaps are waiting for signals."
    )
    return Figure(name="timeline", title=_TITLE, see=see, traces=traces, layout=layout)


def _bars(name: str, hue: str, found: list[tuple[Row, Row, float, float]], zero: float) -> dict[str, Any]:
    return {
        **{"type": "bar", "orientation": "h", "name": name, "marker": {"color": hue}},
        "y": [f"layer {row['layer']}" for row, *_ in found],
        "base": [round(1e3 * (start - zero), 3) for *_, start, _ in found],
        "x": [round(1e3 * seconds, 3) for *_, seconds in found],
        "text": [_what(span) for _, span, *_ in found],
        "textposition": "none",
        "hovertemplate": "%{text}, %{x:.2f} ms<extra>" + name + "</extra>",
    }


def _what(span: Row) -> str:
    part = "" if span.get("micro_batch") is None else f", micro-batch {span['micro_batch']}"
    return f"{span.get('operation')}, step {span['step']}{part}"
