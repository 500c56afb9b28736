"""The figure of a few steps: which layer did what and when, and which waited."""

from __future__ import annotations

from distfa.pages.plots import BLUE, MUTED, ORANGE, Figure
from distfa.report.columns import Row
from distfa.report.records import Run

_KINDS = {
    "forward": ("forward", BLUE),
    "backward": ("backward", ORANGE),
    "update": ("update", "#009E73"),
    "begin": ("probe", "#CC79A7"),
    "evaluate": ("evaluation", MUTED),
}
_WAITING = "#E4E8EC"


def timeline(run: Run) -> Figure:
    """One row per layer, time to the right."""
    figure = Figure("timeline", "Timeline of a few steps")
    spans = [(f"layer {row['layer']}", span) for row in run.timelines for span in row["spans"]]
    if not spans:
        return figure.without("Layers report their timelines at the end of a run on Ray; this run has none.")
    zero = min(span["start"] for _, span in spans)
    steps = [span["step"] for _, span in spans]
    see = (
        f"Steps {min(steps)} to {max(steps)}, by the clocks of the layers' machines; hover over a bar for its "
        "step and micro-batch. Gaps are time spent waiting for signals."
    )
    names = list(dict.fromkeys(layer for layer, _ in spans))
    figure.names_down(names, see, x_title="milliseconds", barmode="overlay", bargap=0.3)
    _draw(figure, "waiting", _WAITING, [(layer, span, 0.0, span["waited"]) for layer, span in spans], zero)
    for kind, (name, hue) in _KINDS.items():
        found = [
            (layer, span, span["waited"], span["end"] - span["start"] - span["waited"])
            for layer, span in spans
            if span.get("operation") == kind
        ]
        if found:
            _draw(figure, name, hue, found, zero)
    return figure


def _draw(figure: Figure, name: str, hue: str, found: list[tuple[str, Row, float, float]], zero: float) -> None:
    """Bars (layer, span, begin within the span, length), both in seconds."""
    figure.bars(
        [round(1e3 * seconds, 3) for *_, seconds in found],
        [layer for layer, *_ in found],
        name,
        hue,
        orientation="h",
        base=[round(1e3 * (span["start"] + begin - zero), 3) for _, span, begin, _ in found],
        text=[_describe_span(span) for _, span, *_ in found],
        textposition="none",
        hovertemplate="%{text}, %{x:.2f} ms<extra>" + name + "</extra>",
    )


def _describe_span(span: Row) -> str:
    part = "" if span.get("micro_batch") is None else f", micro-batch {span['micro_batch']}"
    return f"{span.get('operation')}, step {span['step']}{part}"
