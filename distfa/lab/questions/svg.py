"""Draws a figure as SVG, for pages without scripts: lines, markers and bars, placed as plotly would do it."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from typing import Any

from distfa.pages.plots import INK, MUTED, Figure, Trace

_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 900, 62, 14, 76, 46
_GRID, _TICKS, _LEGEND_STEP, _ROOM = "#e4e7eb", 5, 150, 0.05


class _Axis:
    """Maps numbers or names to pixels."""

    def __init__(self, values: Iterable[Any], start: float, end: float, *, log: bool, zero: bool) -> None:
        known = [value for value in values if isinstance(value, str) or _is_number(value)]
        self.names = list(dict.fromkeys(known)) if any(isinstance(value, str) for value in known) else []
        self._start, self._end, self._log = start, end, log
        if self.names:
            self._least, self._most = -0.5, len(self.names) - 0.5
            return
        numbers = [math.log10(v) if log else v for v in known if not log or v > 0] or [0.0, 1.0]
        if zero:
            numbers.append(0.0)
        least, most = min(numbers), max(numbers)
        room = _ROOM * (most - least) or 0.5
        self._least, self._most = (0.0 if zero and least == 0 else least - room), most + room

    def at(self, value: Any) -> float:
        """The pixel of a value."""
        number = self.names.index(value) if self.names else math.log10(value) if self._log else value
        share = (number - self._least) / (self._most - self._least)
        return self._start + share * (self._end - self._start)

    def ticks(self) -> list[tuple[float, str]]:
        """The ticks, as (pixel, label)."""
        if self.names:
            return [(self.at(name), name) for name in self.names]
        span = self._most - self._least
        rough = span / _TICKS
        step = 10 ** math.floor(math.log10(rough))
        step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= rough)
        marks = [k * step for k in range(math.ceil(self._least / step), math.floor(self._most / step) + 1)]
        values = [10**mark if self._log else mark for mark in marks]
        return [(self.at(value), f"{value:.3g}") for value in values]


def drawn(figure: Figure) -> str:
    """The figure as an SVG document; without traces only its sentence."""
    height = int(figure.layout.get("height", 120))
    body = [f'<rect width="{_WIDTH}" height="{height}" fill="white"/>']
    body.append(_text(_LEFT, 18, figure.title, size=15, weight="bold"))
    for end in sorted({trace.get("xaxis", "x")[1:] for trace in figure.traces}, key=lambda end: int(end or 1)):
        body += _panel(figure, end, height)
    body += _legend(figure.traces) + _titles(figure, height)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif">'
    return "\n".join([head, *body, "</svg>"]) + "\n"


def _panel(figure: Figure, end: str, height: int) -> list[str]:
    traces = [trace for trace in figure.traces if trace.get("xaxis", "x")[1:] == end]
    x_axis, y_axis = figure.layout[f"xaxis{end}"], figure.layout[f"yaxis{end}"]
    left, right = (_across(share) for share in x_axis["domain"])
    bottom, top = (_down(share, height) for share in y_axis["domain"])
    left += 34 if x_axis["domain"][0] else 0
    bars = any(trace["type"] == "bar" for trace in traces)
    x = _Axis((v for t in traces for v in t["x"]), left, right, log=x_axis.get("type") == "log", zero=False)
    y = _Axis((v for t in traces for v in t["y"]), bottom, top, log=y_axis.get("type") == "log", zero=bars)
    found = []
    for pixel, label in y.ticks():
        found.append(_rule(left, pixel, right, pixel))
        found.append(_text(left - 5, pixel + 4, label, anchor="end", colour=MUTED))
    marks = [(x.at(value), f"{value:g}") for value in x_axis.get("tickvals", ())]
    for pixel, label in marks or x.ticks():
        found.append(_rule(pixel, bottom, pixel, bottom + 4))
        found.append(_text(pixel, bottom + 16, label, anchor="middle", colour=MUTED, size=10))
    for trace in traces:
        found += _bars(trace, x, y, bottom) if trace["type"] == "bar" else _curve(trace, x, y)
    if title := x_axis.get("title", {}).get("text"):
        found.append(_text((left + right) / 2, bottom + 32, title, anchor="middle", colour=MUTED))
    return found


def _curve(trace: Trace, x: _Axis, y: _Axis) -> list[str]:
    points = [(x.at(a), y.at(b)) for a, b in zip(trace["x"], trace["y"], strict=True) if _is_number(b)]
    mode, style = trace.get("mode", "lines"), trace.get("line", {})
    hue = style.get("color") or trace.get("marker", {}).get("color", INK)
    found = []
    if "lines" in mode:
        dash = ' stroke-dasharray="7 5"' if style.get("dash") else ""
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        found.append(
            f'<polyline points="{path}" fill="none" stroke="{hue}" stroke-width="{style.get("width", 2)}" '
            f'opacity="{trace.get("opacity", 1)}"{dash}/>'
        )
    if "markers" in mode:
        found += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{hue}" fill-opacity="0.75"/>' for a, b in points]
    return found


def _bars(trace: Trace, x: _Axis, y: _Axis, bottom: float) -> list[str]:
    found = []
    for name, value in zip(trace["x"], trace["y"], strict=True):
        if not _is_number(value):
            continue
        middle, top = x.at(name), y.at(value)
        hue = trace.get("marker", {}).get("color", INK)
        found.append(f'<rect x="{middle - 20:.1f}" y="{top:.1f}" width="40" height="{bottom - top:.1f}" fill="{hue}"/>')
        found.append(_text(middle, top - 4, f"{value:.1f}", anchor="middle", size=10))
    return found


def _legend(traces: list[Trace]) -> list[str]:
    shown = [trace for trace in traces if trace.get("showlegend", True) and trace.get("name")]
    found = []
    for number, trace in enumerate(shown):
        per_row = (_WIDTH - _LEFT) // _LEGEND_STEP
        left, top = _LEFT + number % per_row * _LEGEND_STEP, 32 + number // per_row * 13
        hue = trace.get("line", {}).get("color") or trace.get("marker", {}).get("color", INK)
        dash = ' stroke-dasharray="5 4"' if trace.get("line", {}).get("dash") else ""
        found.append(
            f'<line x1="{left}" y1="{top}" x2="{left + 18}" y2="{top}" stroke="{hue}" stroke-width="3"{dash}/>'
        )
        found.append(_text(left + 23, top + 4, trace["name"], size=10))
    return found


def _titles(figure: Figure, height: int) -> list[str]:
    found = []
    for note in figure.layout.get("annotations", []):
        text = note["text"].replace("<b>", "").replace("</b>", "")
        found.append(_text(_across(note["x"]), _down(note["y"], height) - 6, text, weight="bold"))
    return found


def _across(share: float) -> float:
    return float(_LEFT + share * (_WIDTH - _LEFT - _RIGHT))


def _down(share: float, height: int) -> float:
    return float(height - _BOTTOM - share * (height - _TOP - _BOTTOM))


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{_GRID}"/>'


def _text(
    x: float, y: float, text: str, *, size: int = 11, anchor: str = "start", colour: str = INK, weight: str = "normal"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}" '
        f'font-weight="{weight}">{html.escape(text)}</text>'
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
