"""Figures of the training: curves, gradient alignment, bytes, and where the time went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from distfa.core.rules import BASELINE
from distfa.pages.plots import BLUE, INK, MUTED, ORANGE, PERCENT, Figure, colour, thin
from distfa.report.columns import Columns, Row
from distfa.report.records import Run, have_shared_workers
from distfa.run.result import name_boundary

_WAITING, _PALE, _GREY = (f"rgba(123,135,148,{share})" for share in (0.2, 0.35, 0.6))  # on light and on dark
_OPERATIONS = {
    "forward": ("forward", BLUE),
    "backward": ("backward", ORANGE),
    "update": ("update", "#009E73"),
    "begin": ("probe", "#CC79A7"),
    "evaluate": ("evaluation", MUTED),
}


def curves(run: Run) -> Figure:
    """Loss and accuracy over steps."""
    figure = Figure("curves", "Loss and accuracy")
    if not run.steps and not run.evals:
        return figure.without("The run ended before its first logged step.")
    see = "Train is a single batch, before its update, so it varies; test is the whole test set after an epoch."
    draw_curves(figure, see, [("train", [run.steps], {"hue": BLUE}), ("test", [run.evals], {"hue": ORANGE})])
    return figure


def draw_curves(figure: Figure, see: str, named: Sequence[tuple[str, Sequence[Columns], Mapping[str, Any]]]) -> None:
    """A panel of losses, and one of accuracies if there are any.

    Args:
        figure: Where to draw.
        see: What to look at.
        named: Name, records of one run or of several seeds, and style of each line.
    """
    every = [rows for _, seeds, _ in named for rows in seeds]
    keys = [key for key in ("loss", "accuracy") if any(value is not None for rows in every for value in rows.of(key))]
    figure.panels(keys, see, columns=2)
    for panel, key in enumerate(keys):
        for name, seeds, style in named:
            lines = [list(rows.points(key)) for rows in seeds]
            draw_mean(figure, lines, name, style, panel=panel, legendgroup=name, showlegend=panel == 0)
    if figure.log("y"):
        figure.see += " The loss is on a log scale."
    else:
        figure.y()["rangemode"] = "tozero"
    if "accuracy" in keys:
        figure.y(1)["tickformat"] = PERCENT


def draw_mean(
    figure: Figure, lines: Sequence[Sequence[tuple[Any, Any]]], name: str, style: Mapping[str, Any], **more: Any
) -> None:
    """Add a line; of several seeds their mean and the band from the least to the most, at the steps that all have."""
    known = [dict(points) for points in lines]
    steps = thin(sorted(set.intersection(*map(set, known))))
    found = [(step, [values[step] for values in known]) for step in steps]
    if not found:
        return
    if len(known) > 1:
        low, high = ([(step, pick(values)) for step, values in found] for pick in (min, max))
        figure.band(low, high, style["hue"], panel=more.get("panel", 0), legendgroup=name)
    figure.line([(step, fmean(values)) for step, values in found], name, **style, **more)


def alignment(run: Run) -> Figure:
    """Probes: gradient alignment, dominance, and each layer's share of the fall of the loss."""
    figure = Figure("alignment", "Gradient alignment")
    if not run.probes:
        why = "The run has no probes (probe.every), so it is not known how close its updates were to the true gradient."
        return figure.without(why)
    figure.panels(
        ["cosine to the true gradient", "dominance constant", "a<sub>l</sub>: fall of the loss by layer"],
        "Cosine 1 is the direction of backpropagation. While dominance is above 0, sufficiently small steps "
        "lower the loss. A layer whose bar is below 0 works against the others.",
        columns=3,
        barmode="relative",
    )
    rows = thin(run.probes)
    steps = [row["step"] for row in rows]
    for layer in sorted({layer["layer"] for row in rows for layer in row["layers"]}):
        hue, name = colour(layer, max(len(run.sizes) - 1, layer)), f"layer {layer}"
        cosines, falls = ([_of_layer(row, layer, key) for row in rows] for key in ("cosine", "a"))
        figure.line(list(zip(steps, cosines, strict=True)), name, hue, legendgroup=name)
        figure.bars(steps, falls, name, hue, panel=2, legendgroup=name, showlegend=False)
    figure.line([(row["step"], row["cosine"]) for row in rows], "all layers", INK, width=3)
    figure.line([(row["step"], row["dominance"]) for row in rows], "dominance", INK, panel=1, showlegend=False)
    lowest = [(row["step"], row["min_dominance"]) for row in rows]
    figure.line(lowest, "running minimum", MUTED, panel=1, dash="dot", mode="lines")
    figure.y(1)["rangemode"] = "tozero"
    return figure


def _of_layer(row: Row, layer: int, key: str) -> float | None:
    return next((found[key] for found in row["layers"] if found["layer"] == layer), None)


def traffic(run: Run) -> Figure:
    """Payload bytes per boundary against what bp would have sent."""
    figure = Figure("traffic", "Bytes between layers")
    rows: list[dict[str, Any]] = run.result.get("bytes", {}).get("boundaries", [])
    if not run.result:
        return figure.without("Bytes are counted at the end of a run, and this one did not finish.")
    if run.engine == "serial" or not any(row["up_payload"] or row["down_payload"] for row in rows):
        return figure.without(f"Engine {run.engine} runs in one process, so no bytes were sent.")
    sent = sum(row["up_payload"] + row["down_payload"] for row in rows)
    by_bp = [row["bp_payload"] for row in rows]
    ratio = "not known for this codec" if None in by_bp else f"{sum(by_bp) / sent:.2f} times as much"
    see = f"Coloured: what the run sent; grey: what bp would have sent with the same codecs, {ratio}."
    figure.panels(["payload, bytes"], see, x_title="", barmode="relative", bargap=0.4)
    figure.y().update(tickformat=".3~s", ticksuffix="B")
    names = [f"layers {name_boundary(row)}" for row in rows]
    for key, name, hue, group in (
        ("up_payload", "activations up", BLUE, "sent"),
        ("down_payload", "errors down", ORANGE, "sent"),
        ("bp_payload", "what bp would send", _GREY, BASELINE),
    ):
        figure.bars(names, [row[key] for row in rows], name, hue, offsetgroup=group)
    return figure


def time(run: Run) -> Figure:
    """Busy and waiting seconds per layer."""
    figure = Figure("time", "Where the time went")
    layers: list[dict[str, Any]] = run.result.get("facts", {}).get("layers", [])
    if not run.result:
        return figure.without("Layers report their times at the end of a run, and this one did not finish.")
    if not layers:
        return figure.without(f"Engine {run.engine} does not time its layers separately.")
    names = [f"layer {row['layer']}" for row in layers]
    see = "Layers with long blue bars set the pace: the others wait for them."
    figure.names_down(names, see, x_title="seconds", barmode="stack", bargap=0.4)
    for key, name, hue in (("busy_seconds", "busy", BLUE), ("wait_seconds", "waiting", _PALE)):
        figure.bars([row[key] for row in layers], names, name, hue, orientation="h")
    return figure


def timeline(run: Run) -> Figure:
    """One row per layer, time to the right."""
    figure = Figure("timeline", "Timeline of a few steps")
    hosts = {row["layer"]: f", worker {row['worker']}" for row in run.layers} if have_shared_workers(run.layers) else {}
    spans = [
        (f"layer {row['layer']}{hosts.get(row['layer'], '')}", span) for row in run.timelines for span in row["spans"]
    ]
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
    _draw_spans(figure, "waiting", _WAITING, [(layer, span, 0.0, span["waited"]) for layer, span in spans], zero)
    for kind, (name, hue) in _OPERATIONS.items():
        found = [
            (layer, span, span["waited"], span["end"] - span["start"] - span["waited"])
            for layer, span in spans
            if span.get("operation") == kind
        ]
        if found:
            _draw_spans(figure, name, hue, found, zero)
    return figure


def _draw_spans(figure: Figure, name: str, hue: str, found: list[tuple[str, Row, float, float]], zero: float) -> None:
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
