"""Figures of the conservation law, from the ledger (theory.md: conservation law, the exact ledger)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from distfa.core.rules import RULES
from distfa.pages.plots import MUTED, RED, Figure, Trace, axes, colour, line, panels, thin
from distfa.report.columns import Columns
from distfa.report.records import Run

_CAUSES = (
    ("discretisation", "finite steps"),
    ("optimizer", "optimizer: momentum, decay, Adam"),
    ("nonhomogeneity", "non-homogeneous activation"),
    ("staleness", "delayed updates"),
    ("renewal", "renewed feedback"),
    ("transport", "transport: the two ends disagree"),
    ("residual", "residual: unexplained"),
    ("change", "all causes together"),
)
_LAWFUL = ("discretisation", "optimizer", "nonhomogeneity", "staleness", "renewal")
_ROUNDING = 1e-6  # with plain SGD the rounding of updates leaves at most this share in the optimizer's term
_LIMITS = (("transport", "transport_tolerance"), ("residual", "tolerance"))
_TITLES = {
    "law": "Both sides of the law",
    "drift": "Drift by cause",
    "checks": "Transport and residual against their tolerances",
    "angle": "Weight alignment",
}


def law_figures(run: Run) -> list[Figure]:
    """The figures, or one sentence saying why there are none."""
    if not run.entries:
        return [Figure(name="law", title="Conservation law", see=_no_entries(run))]
    return [_law(run), _drift(run), _checks(run), _angle(run)]


def _no_entries(run: Run) -> str:
    if run.rule in RULES and not RULES[run.rule].potential:
        return f"Rule {run.rule} has no potential, so it has no conservation law, and no ledger is kept."
    if not (run.spec.get("ledger") or {}).get("every", 1):
        return "The ledger was off (ledger.every: 0), so there are no entries."
    return "The run left no ledger entries: it kept no ledger, or ended before the first entry."


def _hue(run: Run, boundary: int) -> str:
    return colour(boundary, max(len(run.sizes) - 1, *run.boundaries))


def _label(boundary: int) -> str:
    return f"boundary {boundary} (layers {boundary}-{boundary + 1})"


def _moves(run: Run, cause: str) -> bool:
    """Whether a cause is more than zero; for a cause that should be zero, whether it is more than rounding."""
    total = {key: sum(map(abs, run.of_entries(key))) for key in (cause, "discretisation")}
    floor = _ROUNDING * total["discretisation"] if cause in ("optimizer", "nonhomogeneity") else 0.0
    return bool(total[cause] > floor)


def _of_boundary(run: Run, boundary: int, x: list[float], y: list[float], **more: Any) -> Trace:
    return line(x, y, _label(boundary), _hue(run, boundary), legendgroup=str(boundary), **more)


def _law(run: Run) -> Figure:
    traces: list[Trace] = []
    for boundary, rows in run.boundaries.items():
        shown = thin(rows)
        steps = [row["step"] for row in shown]
        for key, dash, width in (("incoming", "solid", 4), ("potential", "8px,5px", 2)):
            if key not in rows[0]:
                continue  # the law has no such side here
            growth = [row[key] - rows[0][key] for row in shown]
            name, hue = f"{boundary}: {key}", _hue(run, boundary)
            opacity = 0.5 if key == "incoming" else 1.0  # so that the dashes can be seen on the line below them
            traces.append(line(steps, growth, name, hue, dash=dash, width=width, opacity=opacity))
        accounted = [sum(row[cause] for cause in _LAWFUL) for row in shown]
        for part, y, style in (
            ("measured", [row["change"] for row in shown], {"width": 4, "opacity": 0.5}),
            ("accounted for", accounted, {"dash": "8px,5px"}),
        ):
            hue = _hue(run, boundary)
            traces.append(line(steps, y, f"{boundary}: {part}", hue, panel=1, showlegend=False, **style))
    one_sided = [str(boundary) for boundary, rows in run.boundaries.items() if "potential" not in rows[0]]
    parts = "the gap between them is the drift of the next figure"
    if _moves(run, "optimizer"):
        parts = "here the optimizer is not plain SGD and moves them apart within the law, as the drift by cause shows"
    return Figure(
        name="law",
        title=_TITLES["law"],
        see="First panel: growth since the first entry, solid for ½(‖W‖² + ‖b‖²) of layer l, dashed for its feedback "
        f"potential Φ. Under gradient flow the two lines are the same; {parts}. Second panel: change of Q, the first "
        "minus the second, in the step of each entry, solid as measured, dashed as its lawful causes explain it. "
        "These two are the same under every optimizer, as long as layers and wire do what they should."
        + _one_sided(one_sided),
        traces=traces,
        layout=panels(["growth since the first entry", "change of Q in one step"], columns=2),
    )


def _one_sided(boundaries: list[str]) -> str:
    if not boundaries:
        return ""
    return (
        f" No dashed line at boundary {', '.join(boundaries)}: the layer above is not a single Linear or convolution, "
        "so the law has no other side there; the ledger has the pairing <s, h>, on which both ends must agree."
    )


def _drift(run: Run) -> Figure:
    moved = [(key, title) for key, title in _CAUSES if _moves(run, key)]
    traces: list[Trace] = []
    for panel, (key, _) in enumerate(moved):
        for boundary, rows in run.boundaries.items():
            shown = thin(list(zip(rows.of("step"), accumulate(rows.of(key)), strict=True)))
            x, y = [step for step, _ in shown], [total for _, total in shown]
            traces.append(_of_boundary(run, boundary, x, y, panel=panel, showlegend=panel == 0))
    layout = panels([title for _, title in moved], columns=2 if len(moved) in (2, 4) else 3)
    for panel in range(len(moved)):
        layout["yaxis" if panel == 0 else f"yaxis{panel + 1}"]["exponentformat"] = "power"
    see = [
        "What moved Q = ½(‖W‖² + ‖b‖²) - Φ, summed over entries. Each panel has its own scale; the last is the sum.",
        _sampling(run),
    ]
    if still := [title.partition(":")[0] for key, title in _CAUSES if (key, title) not in moved]:
        see.append(f"Always zero, except for rounding: {', '.join(still)}.")
    return Figure(name="drift", title=_TITLES["drift"], see=" ".join(see), traces=traces, layout=layout)


def _sampling(run: Run) -> str:
    """Whether the sums are over all steps or over some of them."""
    steps = sorted(set(run.of_entries("step")))
    stride = max((b - a for a, b in pairwise(steps)), default=1)
    if stride == 1:
        return "There is an entry for every step, so these are the whole drift."
    return f"There is an entry every {stride} steps only, so these are sums over {len(steps):,} sampled steps."


def _checks(run: Run) -> Figure:
    traces: list[Trace] = []
    zeros = broken = 0
    for panel, (key, limit) in enumerate(_LIMITS):
        for boundary, rows in run.boundaries.items():
            bad = [
                (step, abs(value)) for step, most, value in rows.points(limit, key) if not abs(value) <= most
            ]  # NaN breaks it too
            zeros, broken = zeros + sum(not value for value in rows.of(key)), broken + len(bad)
            traces += _against_limit(run, boundary, rows, key, limit, panel)
            if bad:
                traces.append(
                    _violations(bad, boundary, panel, first=not any(t["name"] == "law broken" for t in traces))
                )
    layout = panels([f"|{key}|" for key, _ in _LIMITS], columns=2)
    for panel, axis in enumerate(("yaxis", "yaxis2")):
        layout[axis] |= {"type": "log", "exponentformat": "power", "dtick": _decades(traces, panel)}
    see = [
        "Each dot is one entry. Each dotted line is the most that rounding may leave: below it the law held.",
        f"Values that broke it, marked red: {broken:,}." if broken else "No entry broke it.",
    ]
    if all(limit is None for limit in run.of_entries("transport_tolerance")):
        see.append("A lossy codec rounds messages, so transport is its error and has no tolerance.")
    if zeros:
        see.append(f"{zeros:,} values are exactly zero, which a log scale cannot show.")
    return Figure(name="checks", title=_TITLES["checks"], see=" ".join(see), traces=traces, layout=layout)


def _decades(traces: Sequence[Trace], panel: int) -> int:
    """Decades between ticks of a log axis, so that there are only a few ticks, each at a power of ten."""
    shown = [math.log10(y) for t in traces if t["yaxis"] == axes(panel)["yaxis"] for y in t["y"] if 0 < y < math.inf]
    return max(1, round((max(shown) - min(shown)) / 5)) if shown else 1


def _against_limit(run: Run, boundary: int, rows: Columns, key: str, limit: str, panel: int) -> list[Trace]:
    """Dots for the entries of a boundary (the largest of each window) and a dotted line for their tolerance."""

    def largest(window: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
        return max(window, key=lambda point: abs(point[1]))

    points = [(step, abs(value)) for step, value in thin(list(rows.points(key)), largest) if value]
    x, y = [step for step, _ in points], [value for _, value in points]
    dots = {"mode": "markers", "marker": {"color": _hue(run, boundary), "size": 4.5, "opacity": 0.6}}
    traces = [_of_boundary(run, boundary, x, y, panel=panel, showlegend=panel == 1) | dots]
    if limits := thin([(step, most) for step, most in rows.points(limit) if most]):
        x, y = [step for step, _ in limits], [most for _, most in limits]
        traces.append(_of_boundary(run, boundary, x, y, panel=panel, dash="dot", showlegend=False))
    return traces


def _violations(bad: list[tuple[int, float]], boundary: int, panel: int, *, first: bool) -> Trace:
    return {
        **{"type": "scatter", "mode": "markers", "name": "law broken", "legendgroup": "broken", "showlegend": first},
        **{"x": [step for step, _ in bad], "y": [value for _, value in bad]},
        "marker": {"color": RED, "size": 11, "symbol": "x"},
        **{"text": [_label(boundary)] * len(bad), "hovertemplate": "step %{x}: %{y:.3g}<br>%{text}"},
        **axes(panel),
    }


def _angle(run: Run) -> Figure:
    traces: list[Trace] = []
    for boundary, rows in run.boundaries.items():
        if shown := thin(list(rows.points("angle_degrees"))):
            x, y = [step for step, _ in shown], [degrees for _, degrees in shown]
            traces.append(_of_boundary(run, boundary, x, y, showlegend=True))
    if not traces:
        why = f"Rule {run.rule} has no fixed feedback matrix in the shape of a weight matrix, so there is no angle."
        return Figure(name="angle", title=_TITLES["angle"], see=why)
    layout = panels(["angle between W and B, degrees"], columns=1)
    layout["yaxis"]["rangemode"] = "tozero"
    if max(max(trace["y"]) for trace in traces) > 60:
        none_of_it = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 90, "y1": 90}
        layout["shapes"] = [none_of_it | {"line": {"color": MUTED, "dash": "dot"}}]
    return Figure(
        name="angle",
        title=_TITLES["angle"],
        see="The angle between the weights above a boundary and its feedback matrix: 0° is the feedback of "
        "backpropagation, 90° has nothing of it. An aligned start begins near 0°, a random one near 90°.",
        traces=traces,
        layout=layout,
    )
