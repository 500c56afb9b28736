"""Draws a figure as SVG with matplotlib, for pages without scripts; plotly would need a browser for it."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

from distfa.errors import UsageError
from distfa.pages.plots import INK, MUTED, Figure, Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH_INCHES, _PIXELS_PER_INCH = 9.0, 100
_DASHES = {"8px,5px": (0, (5, 3)), "dot": ":"}
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "distfa",  # equal figures are equal files
    "svg.fonttype": "none",  # text stays text, in the reader's own font
    "text.parse_math": False,
    "font.size": 8,
    "text.color": INK,
    **dict.fromkeys(("axes.labelcolor", "xtick.color", "ytick.color"), MUTED),
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": MUTED},
    **{"axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True, "grid.color": "#e4e7eb"},
    **{"axes.titlesize": 8, "axes.titleweight": "bold", "axes.titlelocation": "left"},
}


def require_matplotlib() -> None:
    """Make sure, before anything is trained, that its figures can be drawn.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as exc:
        raise UsageError(
            "distfa experiment draws figures with matplotlib, which is not installed; pip install 'distfa[lab]'"
        ) from exc


def svg(figure: Figure) -> str:
    """The figure as an SVG document, of a missing one the title; equal figures give equal text."""
    import matplotlib
    from matplotlib.figure import Figure as Sheet  # without pyplot, which keeps every figure

    titles = [note["text"].removeprefix("<b>").removesuffix("</b>") for note in figure.layout.get("annotations", [])]
    columns = len({figure.x(k)["domain"][0] for k in range(len(titles))})
    with matplotlib.rc_context(_STYLE):
        sheet = Sheet((_WIDTH_INCHES, figure.layout.get("height", 120) / _PIXELS_PER_INCH), layout="constrained")
        sheet.suptitle(figure.title, x=0.01, horizontalalignment="left", weight="bold", size=11)
        for k, title in enumerate(titles):
            panel = sheet.add_subplot(-(-len(titles) // columns), columns, k + 1, title=title)
            _draw(panel, figure.of_panel(k))
            _scale(panel, figure.x(k), figure.y(k))
        if any(trace.get("showlegend", True) for trace in figure.traces):
            sheet.legend(loc="outside lower center", ncols=6, frameon=False)
        drawn = io.StringIO()
        sheet.savefig(drawn, format="svg", metadata={"Date": None})
    return drawn.getvalue()


def _draw(panel: Axes, traces: list[Trace]) -> None:
    for trace in traces:
        label = trace["name"] if trace.get("showlegend", True) else "_hidden"
        y = [math.nan if value is None else value for value in trace["y"]]
        if trace["type"] == "bar":
            panel.bar_label(panel.bar(trace["x"], y, 0.5, color=trace["marker"]["color"], label=label), fmt="%.1f")
            continue
        mode, style = trace["mode"], trace["line"]
        panel.plot(
            trace["x"],
            y,
            color=style["color"],
            linewidth=0.75 * style["width"],
            linestyle=_DASHES.get(style.get("dash"), "-") if "lines" in mode else "none",
            marker="o" if "markers" in mode else "none",
            markersize=4,
            alpha=trace.get("opacity", 1),
            label=label,
        )


def _scale(panel: Axes, x: dict[str, Any], y: dict[str, Any]) -> None:
    for axis, scale in ((x, panel.set_xscale), (y, panel.set_yscale)):
        if axis.get("type") == "log":
            scale("log")
    panel.set_xlabel(x.get("title", {}).get("text", ""))
    if ticks := x.get("tickvals"):
        panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.set_xticks([], minor=True)
