"""Figures of the training: curves, gradient alignment, bytes, and where the time went."""

from __future__ import annotations

from itertools import chain
from typing import Any

from distfa.core.rules import BASELINE
from distfa.pages.plots import INK, MUTED, Figure, Trace, axes, colour, line, panels, thin
from distfa.report.record import Row
from distfa.report.records import Run

_BLUE, _ORANGE = "#0072B2", "#E69F00"


def curves(run: Run) -> Figure:
    """Loss and accuracy over steps."""
    title = "Loss and accuracy"
    if not run.steps and not run.evals:
        return Figure(name="curves", title=title, see="The run ended before its first logged step.")
    keys = ["loss"]
    if any(figure is not None for figure in chain(run.steps.of("accuracy"), run.evals.of("accuracy"))):
        keys.append("accuracy")
    traces: list[Trace] = []
    for panel, key in enumerate(keys):
        for name, rows, hue in (("train", run.steps, _BLUE), ("test", run.evals, _ORANGE)):
            if shown := thin(list(rows.points(key))):
                x, y = [step for step, _ in shown], [figure for _, figure in shown]
                group = {"legendgroup": name, "showlegend": panel == 0}
                traces.append(line(x, y, name, hue, panel=panel, **group))
    layout = panels(keys, columns=2)
    layout["yaxis"]["rangemode"] = "tozero"
    if len(keys) == 2:
        layout["yaxis2"]["tickformat"] = ".0%"
    see = "Train is one batch, before its update, so it varies; test is the whole test set after an epoch."
    return Figure(name="curves", title=title, see=see, traces=traces, layout=layout)


def alignment(run: Run) -> Figure:
    """Probes: gradient alignment, dominance, and each layer's share of the fall of the loss."""
    title = "Gradient alignment"
    if not run.probes:
        why = "The run has no probes (probe.every), so it is not known how near its updates were to the true gradient."
        return Figure(name="alignment", title=title, see=why)
    rows = thin(run.probes)
    steps = [row["step"] for row in rows]
    layers = sorted({layer["layer"] for row in rows for layer in row["layers"]})
    traces: list[Trace] = []
    for layer in layers:
        hue, name = colour(layer, max(len(run.sizes) - 1, layer)), f"layer {layer}"
        group: dict[str, Any] = {"legendgroup": name}
        cosine, a = ([_of_layer(row, layer, key) for row in rows] for key in ("cosine", "a"))
        traces.append(line(steps, cosine, name, hue, **group))
        traces.append(
            {"type": "bar", "name": name, "x": steps, "y": a, "marker": {"color": hue}, "showlegend": False}
            | axes(2)
            | group
        )
    traces.append(line(steps, [row["cosine"] for row in rows], "all layers", INK, width=3))
    traces.append(line(steps, [row["dominance"] for row in rows], "dominance", INK, panel=1, showlegend=False))
    lowest = [row["min_dominance"] for row in rows]
    traces.append(line(steps, lowest, "running minimum", MUTED, panel=1, dash="dot", mode="lines"))
    layout = panels(
        [
            "cosine to the true gradient",
            "dominance constant",
            "a<sub>l</sub>: fall of the loss by layer",
        ],
        columns=3,
    )
    layout["barmode"] = "relative"
    layout["yaxis2"]["rangemode"] = "tozero"
    see = (
        "Cosine 1 is the direction of backpropagation; while dominance is above 0, small enough steps lower "
        "the loss; a layer whose bar is below 0 works against the others."
    )
    return Figure(name="alignment", title=title, see=see, traces=traces, layout=layout)


def _of_layer(row: Row, layer: int, key: str) -> float | None:
    return next((found[key] for found in row["layers"] if found["layer"] == layer), None)


def traffic(run: Run) -> Figure:
    """Payload bytes per boundary against what bp would have sent."""
    title = "Bytes between layers"
    rows: list[dict[str, Any]] = run.result.get("bytes", {}).get("boundaries", [])
    if not run.result:
        return Figure(
            name="traffic", title=title, see="Bytes are counted at the end of a run, and this one did not finish."
        )
    if run.engine == "serial" or not any(row["up_payload"] or row["down_payload"] for row in rows):
        return Figure(
            name="traffic", title=title, see=f"Engine {run.engine} runs in one process, so no bytes were sent."
        )
    names = [f"layers {row['boundary']}-{row['boundary'] + 1}" for row in rows]
    traces: list[Trace] = []
    for key, name, hue, group in (
        ("up_payload", "activations up", _BLUE, "sent"),
        ("down_payload", "errors down", _ORANGE, "sent"),
        ("bp_payload", "what bp would send", "#B8C1CC", BASELINE),
    ):
        y = [row[key] for row in rows]
        traces.append({"type": "bar", "name": name, "x": names, "y": y, "marker": {"color": hue}, "offsetgroup": group})
    sent = sum(row["up_payload"] + row["down_payload"] for row in rows)
    known = all(row["bp_payload"] is not None for row in rows)
    ratio = (
        f"{sum(row['bp_payload'] for row in rows) / sent:.2f} times as much" if known else "not known for this codec"
    )
    layout = panels(["payload, bytes"], columns=1, x_title="") | {"barmode": "relative", "bargap": 0.4}
    layout["yaxis"] |= {"tickformat": ".3~s", "ticksuffix": "B"}
    see = f"Coloured: what the run sent; grey: what bp would have sent with the same codecs, {ratio}."
    return Figure(name="traffic", title=title, see=see, traces=traces, layout=layout)


def time(run: Run) -> Figure:
    """Busy and waiting seconds per layer."""
    title = "Where the time went"
    layers: list[dict[str, Any]] = run.result.get("facts", {}).get("layers", [])
    if not layers:
        why = (
            f"Engine {run.engine} does not time its layers separately."
            if run.result
            else "Layers report their times at the end of a run, and this one did not finish."
        )
        return Figure(name="time", title=title, see=why)
    names = [f"layer {row['layer']}" for row in layers]
    busy = {"type": "bar", "orientation": "h", "name": "busy", "marker": {"color": _BLUE}}
    wait = {"type": "bar", "orientation": "h", "name": "waiting", "marker": {"color": "#D5DBE1"}}
    traces = [
        busy | {"y": names, "x": [row["busy_seconds"] for row in layers]},
        wait | {"y": names, "x": [row["wait_seconds"] for row in layers]},
    ]
    layout = panels([""], columns=1, x_title="seconds") | {"barmode": "stack", "bargap": 0.4}
    layout["yaxis"]["autorange"] = "reversed"
    layout["height"] = 130 + 42 * len(layers)
    see = "A layer waits while others work: layers with long blue bars set the pace."
    return Figure(name="time", title=title, see=see, traces=traces, layout=layout)
