"""The figures for the outcome of each benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from distfa.bench.outcome import Outcome
from distfa.pages.plots import MUTED, Figure, Trace, axes, colour, line, panels
from distfa.text.words import MB

_BLUE, _ORANGE = "#0072B2", "#E69F00"
_BAR_PIXELS = 28
Row = dict[str, Any]


def figures(outcome: Outcome) -> list[Figure]:
    """The benchmark's figures; missing ones say why. A benchmark that is not in the table has none."""
    return [draw(outcome) for draw in _DRAWN.get(outcome.name, ())]


def _speed(outcome: Outcome) -> Figure:
    rows = _with(outcome.rows, "samples_per_second")
    whiskers = {
        "type": "data",
        "symmetric": False,
        "array": [row["most"] - row["samples_per_second"] for row in rows],
        "arrayminus": [row["samples_per_second"] - row["least"] for row in rows],
        "color": MUTED,
    }
    return _bars(
        "speed",
        "Samples per second",
        "Bars are medians over the rounds, whiskers the least and the most.",
        [row["configuration"] + (f", M={m}" if (m := row["micro_batches"]) else "") for row in rows],
        {"x": [row["samples_per_second"] for row in rows], "error_x": whiskers},
        x_title="samples/s",
    )


def _scale(outcome: Outcome) -> Figure:
    rows = sorted(_with(outcome.rows, "overhead_ms"), key=lambda row: row["micro_batches"])
    traces = _lines(rows, "micro_batches", "layers", "overhead_ms", "M={}")
    layout = panels(["overhead per layer and step, CPU ms"], columns=1, x_title="layers")
    layout["yaxis"]["rangemode"] = "tozero"
    see = "What a layer's step costs beside its own arithmetic; a flat line means that it does not grow with the depth."
    return Figure(name="scale", title="Overhead per layer", see=see, traces=traces, layout=layout)


def _bytes(outcome: Outcome) -> Figure:
    rules: dict[str, list[Row]] = {}
    for row in outcome.raw:
        if "curves" in row and row["curve"]["steps"]:
            rules.setdefault(row["name"], []).append(row)
    traces = []
    for index, rows in enumerate(rules.values(), start=1):
        best = min(rows, key=_bytes_to_target)
        x, y = [count / MB for count in best["curve"]["payload_bytes"]], best["curve"]["accuracy"]
        name = f"{best['name'].removeprefix('distfa ')}, {best['codec']}"
        traces.append(line(x, y, name, colour(index, len(rules)), mode="lines"))
    layout = panels(["test accuracy"], columns=1, x_title="payload sent, MB")
    layout["xaxis"]["type"] = "log"
    layout["yaxis"]["tickformat"] = ".0%"
    target = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": outcome.settings["target"]}
    layout["shapes"] = [target | {"y1": outcome.settings["target"], "line": {"color": MUTED, "dash": "dot"}}]
    see = (
        "One line a rule, with the codecs it needs the fewest bytes with; it ends where it first meets the target, "
        "dotted; the further left, the fewer bytes. The scale is a log."
    )
    return Figure(name="bytes", title="Accuracy against bytes", see=see, traces=traces, layout=layout)


def _bytes_to_target(row: Row) -> tuple[bool, float]:
    """A sort key, smaller is better; for a run that missed the target the best accuracy counts."""
    curve = row["curve"]
    return not curve["reached"], curve["payload_bytes"][-1] if curve["reached"] else -max(curve["accuracy"])


def _time(outcome: Outcome) -> Figure:
    rows = _with(outcome.rows, "seconds")
    return _bars(
        "reach",
        "Time to the target over the links",
        f"Training only, over links of {outcome.settings['megabits_per_second']:g} Mbit/s."
        if rows
        else "Nothing was timed over links to the target; the notes say why.",
        [f"{row['name']}, {row['codec']}" for row in rows],
        {"x": [row["seconds"] for row in rows]},
        x_title="seconds",
    )


def _rules(outcome: Outcome) -> Figure:
    rows = _with(outcome.rows, "test_accuracy")
    names = [row["rule"] if row["init"] == "any" else f"{row['rule']} {row['init']}" for row in rows]
    traces: list[Trace] = []
    for panel, (key, hue) in enumerate((("test_accuracy", _BLUE), ("alignment", _ORANGE))):
        y = [row.get(key) for row in rows]
        bar = {"type": "bar", "x": names, "y": y, "texttemplate": "%{y:.4~g}", "marker": {"color": hue}}
        traces.append(bar | {"showlegend": False} | axes(panel))
    if rows and "spread" in rows[0]:
        traces[0]["error_y"] = {"type": "data", "array": [row.get("spread") for row in rows], "color": MUTED}
    layout = panels(["test accuracy, %", "alignment with the true gradient"], columns=1, x_title="")
    see = "Alignment 1 is the direction of backpropagation; whiskers, if any, are deviations over seeds."
    return Figure(name="rules", title="Accuracy and alignment", see=see, traces=traces if rows else [], layout=layout)


def _codecs(outcome: Outcome) -> Figure:
    rows = sorted(_with(outcome.rows, "test_accuracy"), key=lambda row: row["bytes_per_sample"])
    names = list(dict.fromkeys(row["rule"] for row in outcome.rows))
    traces = _lines(rows, "rule", "bytes_per_sample", "test_accuracy", order=names)
    for trace in traces:
        trace["text"] = [row["codecs"] for row in rows if row["rule"] == trace["name"]]
        trace["hovertemplate"] = "%{text}: %{y:.2f} %, %{x:,.0f} bytes"
    layout = panels(["test accuracy, %"], columns=1, x_title="payload bytes per sample")
    layout["xaxis"]["type"] = "log"
    see = "Each marker is a pair of codecs, named where it is pointed at; further left are fewer bytes, on a log scale."
    return Figure(name="codecs", title="Accuracy against bytes per sample", see=see, traces=traces, layout=layout)


def _drift(outcome: Outcome) -> Figure:
    traces = _lines(outcome.rows, "rule", "lr", "drift")
    layout = panels(["sum over boundaries of |Q(T) - Q(0)|"], columns=1, x_title="learning rate")
    layout["xaxis"]["type"] = layout["yaxis"]["type"] = "log"
    see = (
        "Drift of the conserved quantity over equal training time: on these logarithmic scales a line of slope 1 is "
        "drift in proportion to the learning rate, and so none in the limit of gradient flow."
    )
    return Figure(name="drift", title="Drift against the learning rate", see=see, traces=traces, layout=layout)


def _with(rows: list[Row], key: str) -> list[Row]:
    return [row for row in rows if row.get(key) is not None]


def _lines(rows: list[Row], by: str, x: str, y: str, label: str = "{}", order: list[Any] | None = None) -> list[Trace]:
    """A line with markers for every value of a column, in order of appearance or in a given order."""
    values = [
        value for value in order or dict.fromkeys(row[by] for row in rows) if any(row[by] == value for row in rows)
    ]
    traces = []
    for index, value in enumerate(values, start=1):
        mine = [row for row in rows if row[by] == value]
        points = [row[x] for row in mine], [row[y] for row in mine]
        traces.append(line(*points, label.format(value), colour(index, len(values)), mode="lines+markers"))
    return traces


def _bars(name: str, title: str, see: str, names: list[str], bar: Trace, *, x_title: str) -> Figure:
    """Horizontal bars, the first on top."""
    trace = {"type": "bar", "orientation": "h", "y": names, "marker": {"color": _BLUE}, "showlegend": False, **bar}
    layout = panels([""], columns=1, x_title=x_title) | {"bargap": 0.35}
    layout["yaxis"]["autorange"] = "reversed"
    layout["height"] = 130 + _BAR_PIXELS * len(names)
    return Figure(name=name, title=title, see=see, traces=[trace] if names else [], layout=layout)


_DRAWN: Mapping[str, tuple[Callable[[Outcome], Figure], ...]] = MappingProxyType(
    {
        "speed": (_speed,),
        "scale": (_scale,),
        "comm": (_bytes, _time),
        "rules": (_rules,),
        "codecs": (_codecs,),
        "books-drift": (_drift,),
    }
)
