"""The file of a benchmark as one HTML page: notes, figures, table, settings and machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from distfa.bench.outcome import Outcome
from distfa.errors import BenchError
from distfa.pages.page import Box, Facts, Page, Table
from distfa.pages.plots import BLUE, MUTED, ORANGE, PERCENT, Figure, category
from distfa.settings import flat
from distfa.text.words import MB

_BAR_PIXELS = 28
Row = dict[str, Any]


def write_bench_report(path: Path, out: Path | None = None, *, shared: bool = False) -> Path:
    """Write the page; it needs no network.

    Args:
        path: A file that ``distfa bench`` wrote.
        out: The page; ``path`` with the ending .html if not given.
        shared: As for ``Page.write``.

    Returns:
        Where the page is.

    Raises:
        BenchError: The file cannot be read, or is not a benchmark's.
        RunDirError: The page cannot be written.
    """
    outcome = Outcome.load(path)
    out = path.with_suffix(".html") if out is None else out
    try:
        page = bench_page(outcome, path)
    except (KeyError, TypeError, AttributeError) as exc:
        raise BenchError(f"{path} is not a result of this version of distfa bench {outcome.name}: {exc!r}") from exc
    page.write(out, shared=shared)
    return out


def bench_page(outcome: Outcome, path: Path) -> Page:
    """The page."""
    machine = outcome.machine
    return Page(
        title=f"distfa bench {outcome.name}",
        subtitle=f"{machine.get('processor', 'unknown processor')}, {machine.get('cores', '?')} cores · {path}",
        parts=[
            *([Box("Notes", "\n".join(outcome.notes))] if outcome.notes else []),
            *outcome_figures(outcome),
            Table(columns=outcome.shown, rows=outcome.rows),
            Facts([_words(outcome.settings), _words(machine)]),
        ],
    )


def _words(values: Mapping[str, Any]) -> dict[str, str]:
    """A mapping as texts for a person: nested keys dotted, lists as JSON."""
    return {
        key.replace("_", " "): value if isinstance(value, str) else json.dumps(value)
        for key, value in flat(values).items()
        if value is not None
    }


def outcome_figures(outcome: Outcome) -> list[Figure]:
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
    names = [row["configuration"] + (f", M={m}" if (m := row["micro_batches"]) else "") for row in rows]
    see = "Bars are medians over the rounds, whiskers the minimum and maximum."
    figure = Figure("speed", "Samples per second")
    return _draw_bars(figure, see, names, [row["samples_per_second"] for row in rows], "samples/s", error_x=whiskers)


def _scale(outcome: Outcome) -> Figure:
    figure = Figure("scale", "Overhead per layer")
    see = (
        "What a layer's step costs beyond its own arithmetic; a flat line means that the cost does not grow with depth."
    )
    figure.panels(["overhead per layer and step, CPU ms"], see, x_title="layers")
    figure.y()["rangemode"] = "tozero"
    rows = sorted(_with(outcome.rows, "overhead_ms"), key=lambda row: row["micro_batches"])
    return _draw_lines(figure, rows, "micro_batches", "layers", "overhead_ms", "M={}")


def _bytes(outcome: Outcome) -> Figure:
    rules: dict[str, list[Row]] = {}
    for row in outcome.raw:
        if "curves" in row and row["curve"]["steps"]:
            rules.setdefault(row["name"], []).append(row)
    figure = Figure("bytes", "Accuracy against bytes")
    if not rules:
        return figure.without("The file has no curves of accuracy.")
    see = (
        "One line per rule, with the codecs that need the fewest bytes; it ends where it first reaches the "
        "target (dotted). Further left means fewer bytes, on a log scale."
    )
    figure.panels(["test accuracy"], see, x_title="payload sent, MB")
    figure.y()["tickformat"] = PERCENT
    figure.level(outcome.settings["target"])
    for index, rows in enumerate(rules.values(), start=1):
        best = min(rows, key=_bytes_to_target)
        sent = [count / MB for count in best["curve"]["payload_bytes"]]
        name = f"{best['name'].removeprefix('distfa ')}, {best['codec']}"
        points = list(zip(sent, best["curve"]["accuracy"], strict=True))
        figure.line(points, name, mode="lines", **category(index))
    figure.log("x")
    return figure


def _bytes_to_target(row: Row) -> tuple[bool, float]:
    """A sort key, smaller is better; for a run that missed the target the best accuracy counts."""
    curve = row["curve"]
    return not curve["reached"], curve["payload_bytes"][-1] if curve["reached"] else -max(curve["accuracy"])


def _time(outcome: Outcome) -> Figure:
    figure, rows = Figure("reach", "Time to the target over the links"), _with(outcome.rows, "seconds")
    if not rows:
        return figure.without("No run to the target was timed over links; the notes say why.")
    see = f"Training only, over links of {outcome.settings['megabits_per_second']:g} Mbit/s."
    names = [f"{row['name']}, {row['codec']}" for row in rows]
    return _draw_bars(figure, see, names, [row["seconds"] for row in rows], "seconds")


def _rules(outcome: Outcome) -> Figure:
    figure, rows = Figure("rules", "Accuracy and alignment"), _with(outcome.rows, "test_accuracy")
    see = "Alignment 1 is the direction of backpropagation; whiskers, if any, are standard deviations over seeds."
    if not rows:
        return figure.without(see)
    figure.panels(["test accuracy, %", "alignment with the true gradient"], see, x_title="")
    names = [row["rule"] if row["init"] == "any" else f"{row['rule']} {row['init']}" for row in rows]
    for panel, (key, hue) in enumerate((("test_accuracy", BLUE), ("alignment", ORANGE))):
        y = [row.get(key) for row in rows]
        figure.bars(names, y, key, hue, panel=panel, texttemplate="%{y:.4~g}", showlegend=False)
    if "spread" in rows[0]:
        figure.traces[0]["error_y"] = {"type": "data", "array": [row.get("spread") for row in rows], "color": MUTED}
    return figure


def _codecs(outcome: Outcome) -> Figure:
    figure = Figure("codecs", "Accuracy against bytes per sample")
    see = "Each marker is a pair of codecs (hover for its name); further left means fewer bytes, on a log scale."
    figure.panels(["test accuracy, %"], see, x_title="payload bytes per sample")
    rows = sorted(_with(outcome.rows, "test_accuracy"), key=lambda row: row["bytes_per_sample"])
    names = list(dict.fromkeys(row["rule"] for row in outcome.rows))
    _draw_lines(figure, rows, "rule", "bytes_per_sample", "test_accuracy", order=names)
    for trace in figure.traces:
        trace["text"] = [row["codecs"] for row in rows if row["rule"] == trace["name"]]
        trace["hovertemplate"] = "%{text}: %{y:.2f} %, %{x:,.0f} bytes"
    figure.log("x")
    return figure


def _drift(outcome: Outcome) -> Figure:
    figure = Figure("drift", "Drift against the learning rate")
    see = (
        "Drift of the conserved quantity over equal training time: on these logarithmic scales a line of slope 1 "
        "means that drift is proportional to the learning rate, and so vanishes in the limit of gradient flow."
    )
    figure.panels(["sum over boundaries of |Q(T) - Q(0)|"], see, x_title="learning rate")
    _draw_lines(figure, outcome.rows, "rule", "lr", "drift")
    figure.log("x")
    figure.log("y")
    return figure


def _with(rows: list[Row], key: str) -> list[Row]:
    return [row for row in rows if row.get(key) is not None]


def _draw_lines(
    figure: Figure, rows: list[Row], by: str, x: str, y: str, label: str = "{}", order: Sequence[Any] = ()
) -> Figure:
    """A line with markers for every value of a column, in order of appearance or in a given order."""
    present = dict.fromkeys(row[by] for row in rows)
    values = [value for value in order or present if value in present]
    for index, value in enumerate(values, start=1):
        points = [(row[x], row[y]) for row in rows if row[by] == value]
        figure.line(points, label.format(value), mode="lines+markers", **category(index))
    return figure


def _draw_bars(figure: Figure, see: str, names: list[str], lengths: list[float], x_title: str, **more: Any) -> Figure:
    """Horizontal bars, the first on top."""
    figure.names_down(names, see, pixels=_BAR_PIXELS, x_title=x_title, bargap=0.35)
    if names:
        figure.bars(lengths, names, x_title, BLUE, orientation="h", showlegend=False, **more)
    return figure


_DRAWN: Mapping[str, tuple[Callable[[Outcome], Figure], ...]] = {
    "speed": (_speed,),
    "scale": (_scale,),
    "comm": (_bytes, _time),
    "rules": (_rules,),
    "codecs": (_codecs,),
    "books-drift": (_drift,),
}
