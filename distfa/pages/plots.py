"""The parts of figures: colours, panels and thinning.

A figure is the plain JSON that plotly.js draws. Building it without plotly's Python classes keeps the report
quick, and the tests put every figure through those classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")
Trace = dict[str, Any]

INK, MUTED, RED = "#1f2933", "#7b8794", "#d1001f"
# Okabe and Ito's palette for every kind of colour vision, without yellow and its reds (red means a broken law here).
_PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#8C6D31", "#6A51A3")
_CIVIDIS = ((0, 34, 78), (53, 69, 108), (102, 105, 112), (148, 142, 119), (200, 184, 102), (254, 232, 56))
MAX_POINTS = 1500  # per line; more cannot be distinguished on a screen
_FEW_POINTS = 25  # up to this many points each gets a mark: a line of one point is invisible
_PANEL_PIXELS, _ROW_GAP_PIXELS, _COLUMN_GAP = 220, 78, 0.085


@dataclass(frozen=True, kw_only=True)
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
    see: str
    traces: list[Trace] = field(default_factory=list)
    layout: dict[str, Any] = field(default_factory=dict)


def colour(index: int, count: int) -> str:
    """The colour of boundary or layer ``index`` of ``count``, counted from 1: the same in every figure."""
    if count <= len(_PALETTE):
        return _PALETTE[(index - 1) % len(_PALETTE)]
    position = (index - 1) / max(count - 1, 1) * (len(_CIVIDIS) - 1)
    low = min(int(position), len(_CIVIDIS) - 2)
    share = position - low
    mixed = (round(a + share * (b - a)) for a, b in zip(_CIVIDIS[low], _CIVIDIS[low + 1], strict=True))
    return "rgb({}, {}, {})".format(*mixed)


def panels(titles: Sequence[str], *, columns: int, x_title: str = "step", gap: float = _COLUMN_GAP) -> dict[str, Any]:
    """A layout of panels, filled row by row; panel k (from 0) has the axes of ``axes(k)``."""
    rows = -(-len(titles) // columns)
    inner = rows * _PANEL_PIXELS + (rows - 1) * _ROW_GAP_PIXELS
    width = (1 - gap * (columns - 1)) / columns
    layout: dict[str, Any] = {"height": inner + 110, "annotations": []}
    for k, title in enumerate(titles):
        row, column = divmod(k, columns)
        top = 1 - row * (_PANEL_PIXELS + _ROW_GAP_PIXELS) / inner
        bottom = max(0.0, top - _PANEL_PIXELS / inner)
        left = column * (width + gap)
        end = "" if k == 0 else str(k + 1)
        layout[f"xaxis{end}"] = {"domain": [left, min(1.0, left + width)], "anchor": f"y{end}"}
        layout[f"yaxis{end}"] = {"domain": [bottom, top], "anchor": f"x{end}"}
        if k:
            layout[f"xaxis{end}"]["matches"] = "x"
        if row == rows - 1 or k + columns >= len(titles):
            layout[f"xaxis{end}"]["title"] = {"text": x_title}
        layout["annotations"].append(
            {
                **{"text": f"<b>{title}</b>", "x": left, "y": top, "xref": "paper", "yref": "paper"},
                **{"xanchor": "left", "yanchor": "bottom", "showarrow": False, "font": {"size": 13}},
            }
        )
    return layout


def axes(panel: int) -> dict[str, str]:
    """The axes of a panel of ``panels``, counted from 0."""
    end = "" if panel == 0 else str(panel + 1)
    return {"xaxis": f"x{end}", "yaxis": f"y{end}"}


def line(x: Sequence[float], y: Sequence[float | None], name: str, hue: str, *, panel: int = 0, **more: Any) -> Trace:
    """A line; ``more`` goes to plotly, ``dash`` and ``width`` to plotly's ``line``."""
    style = {"color": hue, "width": more.pop("width", 2)} | ({"dash": more.pop("dash")} if "dash" in more else {})
    mode = "lines" if len(x) > _FEW_POINTS else "lines+markers"
    return {
        **{"type": "scatter", "mode": mode, "name": name, "x": list(x), "y": list(y), "line": style},
        **axes(panel),
        **more,
    }


def thin(rows: Sequence[T], keep: Callable[[Sequence[T]], T] = lambda window: window[-1]) -> list[T]:
    """At most ``MAX_POINTS`` rows, one from each window of equal length, always including the first row."""
    if len(rows) <= MAX_POINTS:
        return list(rows)
    size = -(-len(rows) // (MAX_POINTS - 1))
    return [rows[0], *(keep(rows[i : i + size]) for i in range(1, len(rows), size))]
