"""A figure, built trace by trace: colours, panels and thinning.

It is the plain JSON that plotly.js draws. Building it without plotly's Python classes keeps the report quick, and the
tests put every figure through those classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

T = TypeVar("T")
Trace = dict[str, Any]

INK, MUTED, RED, BLUE, ORANGE = "#1f2933", "#7b8794", "#d1001f", "#0072B2", "#E69F00"
# Okabe and Ito's palette for every kind of colour vision, without yellow and its reds (red means a broken law here).
_PALETTE = (BLUE, ORANGE, "#009E73", "#CC79A7", "#56B4E9", "#8C6D31", "#6A51A3")
_DASHES = ("", "dash", "dot", "dashdot")  # categories beyond the palette
_CIVIDIS = ((0, 34, 78), (53, 69, 108), (102, 105, 112), (148, 142, 119), (200, 184, 102), (254, 232, 56))
PERCENT = ".4~p"  # 96.5%, where .0% would write the same at two ticks
MAX_POINTS = 1500  # per line; more cannot be distinguished on a screen
_FEW_POINTS = 25  # up to this many points each gets a mark: a line of one point is invisible
_FEW_DECADES = 0.9  # below one, plotly's ticks are those of a linear axis, and more of them have room
_PANEL_PIXELS, _ROW_GAP_PIXELS, _COLUMN_GAP = 220, 78, 0.085


@dataclass
class Figure:
    """A figure, or why there is none.

    Attributes:
        name: Name of its element in the page.
        title: Its heading.
        see: One plain sentence on what to look at; for a missing figure why it is missing.
        traces: What plotly draws; empty for a missing figure.
        layout: Axes and panels.
    """

    name: str
    title: str
    see: str = ""
    traces: list[Trace] = field(default_factory=list)
    layout: dict[str, Any] = field(default_factory=dict)

    def without(self, why: str) -> Figure:
        """The figure, which is missing, with the reason."""
        self.see = why
        return self

    def panels(
        self, titles: Sequence[str], see: str, *, columns: int = 1, x_title: str = "step", **layout: Any
    ) -> None:
        """Lay out panels, filled row by row; ``layout`` goes to plotly."""
        rows = -(-len(titles) // columns)
        inner = rows * _PANEL_PIXELS + (rows - 1) * _ROW_GAP_PIXELS
        width = (1 - _COLUMN_GAP * (columns - 1)) / columns
        self.see, self.layout = see, {"height": inner + 110, "annotations": [], **layout}
        for k, title in enumerate(titles):
            row, column = divmod(k, columns)
            top = 1 - row * (_PANEL_PIXELS + _ROW_GAP_PIXELS) / inner
            left, end = column * (width + _COLUMN_GAP), str(k + 1 if k else "")
            x: dict[str, Any] = {"domain": [left, min(1.0, left + width)], "anchor": f"y{end}"}
            if k:
                x["matches"] = "x"
            if k + columns >= len(titles):
                x["title"] = {"text": x_title}
            self.layout[f"xaxis{end}"] = x
            self.layout[f"yaxis{end}"] = {"domain": [max(0.0, top - _PANEL_PIXELS / inner), top], "anchor": f"x{end}"}
            head: Trace = {"text": f"<b>{title}</b>", "showarrow": False, "font": {"size": 13}}
            head |= {"x": left, "y": top, "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
            self.layout["annotations"].append(head)

    def names_down(self, names: Sequence[str], see: str, *, pixels: int = 42, x_title: str, **layout: Any) -> None:
        """Lay out one panel of horizontal bars, the first on top."""
        self.panels([""], see, x_title=x_title, **layout)
        self.y()["autorange"] = "reversed"
        self.layout["height"] = 130 + pixels * len(names)

    def x(self, panel: int = 0) -> dict[str, Any]:
        """The horizontal axis of a panel, counted from 0."""
        return self.layout[f"xaxis{panel + 1 if panel else ''}"]  # type: ignore[no-any-return]

    def y(self, panel: int = 0) -> dict[str, Any]:
        """The vertical axis of a panel, counted from 0."""
        return self.layout[f"yaxis{panel + 1 if panel else ''}"]  # type: ignore[no-any-return]

    def log(self, axis: Literal["x", "y"], panel: int = 0) -> bool:
        """Make an axis of a panel that is drawn logarithmic, with the whole number at few ticks.

        By itself plotly writes only the leading digit between powers of ten: 4, 5, 6, ..., 2, 3.

        Returns:
            Whether it is: a figure of 0 or below has no logarithm.
        """
        numbers = [value for trace in self.of_panel(panel) for value in trace[axis] if value is not None]
        numbers = [value for value in numbers if math.isfinite(value)]
        if not numbers or min(numbers) <= 0:
            return False
        few = math.log10(max(numbers) / min(numbers)) < _FEW_DECADES
        found = self.x(panel) if axis == "x" else self.y(panel)
        found.update(type="log", tickformat=".6~g", nticks=6 if few else 3)
        return True

    def of_panel(self, panel: int) -> list[Trace]:
        """The traces of a panel, counted from 0."""
        return [trace for trace in self.traces if trace["yaxis"] == _axes(panel)["yaxis"]]

    def line(
        self, points: Sequence[tuple[Any, Any]], name: str, hue: str, *, panel: int = 0, dash: str = "", **more: Any
    ) -> None:
        """Add a line through points (x, y), or dots if ``mode`` is ``markers``; ``more`` goes to plotly."""
        x, y = [x for x, _ in points], [y for _, y in points]
        style = {"color": hue, "width": more.pop("width", 2)} | ({"dash": dash} if dash else {})
        mode = "lines" if len(x) > _FEW_POINTS else "lines+markers"
        found = {"type": "scatter", "mode": mode, "name": name, "x": x, "y": y, "line": style}
        self.traces.append(found | _axes(panel) | more)

    def band(
        self, low: Sequence[tuple[Any, Any]], high: Sequence[tuple[Any, Any]], hue: str, *, panel: int = 0, **more: Any
    ) -> None:
        """Fill what is between two lines of points (x, y); ``more`` goes to plotly."""
        filled: Trace = {"mode": "lines", "width": 0, "fill": "toself", "fillcolor": hue, "opacity": 0.2}
        aside: Trace = {"hoverinfo": "skip", "showlegend": False}
        self.line([*low, *reversed(high)], "", hue, panel=panel, **filled, **aside, **more)

    def bars(self, x: Sequence[Any], y: Sequence[Any], name: str, hue: str, *, panel: int = 0, **more: Any) -> None:
        """Add bars; ``more`` goes to plotly."""
        found = {"type": "bar", "name": name, "x": list(x), "y": list(y), "marker": {"color": hue}}
        self.traces.append(found | _axes(panel) | more)

    def level(self, y: float) -> None:
        """Mark a figure across the first panel with a dotted line."""
        across = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y}
        self.layout["shapes"] = [across | {"line": {"color": MUTED, "dash": "dot"}}]


def _axes(panel: int) -> dict[str, str]:
    end = panel + 1 if panel else ""
    return {"xaxis": f"x{end}", "yaxis": f"y{end}"}


def colour(index: int, count: int) -> str:
    """The colour of boundary or layer ``index`` of ``count``, counted from 1: the same in every figure."""
    if count <= len(_PALETTE):
        return _PALETTE[(index - 1) % len(_PALETTE)]
    position = (index - 1) / max(count - 1, 1) * (len(_CIVIDIS) - 1)
    low = min(int(position), len(_CIVIDIS) - 2)
    share = position - low
    mixed = (round(a + share * (b - a)) for a, b in zip(_CIVIDIS[low], _CIVIDIS[low + 1], strict=True))
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def category(index: int) -> Trace:
    """Colour and dash of category ``index``, counted from 1: categories have no order, so their colours have none."""
    turn, place = divmod(index - 1, len(_PALETTE))
    return {"hue": _PALETTE[place], "dash": _DASHES[turn % len(_DASHES)]}


def thin(rows: Sequence[T], keep: Callable[[Sequence[T]], T] = lambda window: window[-1]) -> list[T]:
    """At most ``MAX_POINTS`` rows, one from each window of equal length, always including the first row."""
    if len(rows) <= MAX_POINTS:
        return list(rows)
    size = -(-len(rows) // (MAX_POINTS - 1))
    return [rows[0], *(keep(rows[i : i + size]) for i in range(1, len(rows), size))]
