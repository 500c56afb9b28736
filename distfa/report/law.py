"""Figures of the conservation law, from the ledger (theory.md: conservation law, the exact ledger)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from distfa.core.rules import RULES
from distfa.own.finding import is_path
from distfa.pages.plots import RED, Figure, colour, thin
from distfa.report.columns import Columns
from distfa.report.records import Run

_CAUSES = {
    "discretisation": "finite steps",
    "optimizer": "optimizer: momentum, decay, Adam",
    "nonhomogeneity": "non-homogeneous activation",
    "staleness": "delayed updates",
    "renewal": "renewed feedback",
    "transport": "transport: the two ends disagree",
    "residual": "residual: unexplained",
    "change": "all causes together",
}
_LAWFUL = ("discretisation", "optimizer", "nonhomogeneity", "staleness", "renewal")
_ROUNDING = 1e-6  # with plain SGD the rounding of updates leaves at most this share in the optimizer's term
_LIMITS = (("transport", "transport_tolerance"), ("residual", "tolerance"))


def law_figures(run: Run) -> list[Figure]:
    """The figures, or one sentence saying why there are none."""
    if not run.entries:
        return [Figure("law", "Conservation law").without(_no_entries(run))]
    return [_law(run), _drift(run), _checks(run), _angle(run)]


def _no_entries(run: Run) -> str:
    rule = RULES.known(run.rule)
    if rule is not None and not rule.potential:
        return f"Rule {run.rule} has no potential, so it has no conservation law and no ledger."
    if not (run.spec.get("ledger") or {}).get("every", 1):
        return "The ledger was off (ledger.every: 0), so there are no entries."
    if is_path(str(run.rule)):
        return f"Rule {run.rule} is one of your own without a potential, so it has no conservation law and no ledger."
    return "The run has no ledger entries: it kept no ledger, or ended before the first entry."


def _hue(run: Run, boundary: int) -> str:
    return colour(boundary, max(len(run.sizes) - 1, *run.boundaries))


def _label(boundary: int) -> str:
    return f"boundary {boundary} (layers {boundary}-{boundary + 1})"


def _moves(run: Run, cause: str) -> bool:
    """Whether a cause is more than zero; for a cause that should be zero, whether it is more than rounding."""
    total = {key: sum(map(abs, run.of_entries(key))) for key in (cause, "discretisation")}
    floor = _ROUNDING * total["discretisation"] if cause in ("optimizer", "nonhomogeneity") else 0.0
    return bool(total[cause] > floor)


def _draw(figure: Figure, run: Run, boundary: int, points: Sequence[tuple[Any, Any]], **more: Any) -> None:
    """Add a line of a boundary, or its dots."""
    figure.line(points, _label(boundary), _hue(run, boundary), legendgroup=str(boundary), **more)


def _law(run: Run) -> Figure:
    figure = Figure("law", "Both sides of the law")
    parts = "the gap between them is the drift shown in the next figure"
    if _moves(run, "optimizer"):
        parts = "here the optimizer is not plain SGD and legitimately moves them apart, as the drift by cause shows"
    figure.panels(
        ["growth since the first entry", "change of Q in one step"],
        "First panel: growth since the first entry, solid for ½(‖W‖² + ‖b‖²) of layer l, dashed for its feedback "
        f"potential Φ. Under gradient flow the two lines coincide; {parts}. Second panel: change of Q (the first "
        "minus the second) in the step of each entry, solid as measured, dashed as explained by its legitimate "
        "causes. These two coincide under every optimizer, as long as layers and wire work correctly."
        + _note_one_sided([str(boundary) for boundary, rows in run.boundaries.items() if "potential" not in rows[0]]),
        columns=2,
    )
    solid: dict[str, Any] = {"width": 4, "opacity": 0.5}  # so that the dashes can be seen on the line below them
    for boundary, rows in run.boundaries.items():
        shown, first = thin(rows), rows[0]
        for key, style in (("incoming", solid | {"dash": "solid"}), ("potential", {"dash": "8px,5px"})):
            if key in first:  # else the law has no such side here
                growth = [(row["step"], row[key] - first[key]) for row in shown]
                figure.line(growth, f"{boundary}: {key}", _hue(run, boundary), **style)
        measured = [(row["step"], row["change"]) for row in shown]
        accounted = [(row["step"], sum(row[cause] for cause in _LAWFUL)) for row in shown]
        for part, points, style in (("measured", measured, solid), ("accounted for", accounted, {"dash": "8px,5px"})):
            figure.line(points, f"{boundary}: {part}", _hue(run, boundary), panel=1, showlegend=False, **style)
    return figure


def _note_one_sided(boundaries: list[str]) -> str:
    if not boundaries:
        return ""
    return (
        f" No dashed line at boundary {', '.join(boundaries)}: the layer above is not a single Linear or "
        "convolution, so the law has no second side there; the ledger checks the pairing <s, h>, on which both "
        "ends must agree."
    )


def _drift(run: Run) -> Figure:
    figure = Figure("drift", "Drift by cause")
    moved = {key: title for key, title in _CAUSES.items() if _moves(run, key)}
    still = [title.partition(":")[0] for key, title in _CAUSES.items() if key not in moved]
    figure.panels(
        list(moved.values()),
        "What moved Q = ½(‖W‖² + ‖b‖²) - Φ, summed over entries. Each panel has its own scale; the last is the sum. "
        + _note_sampling(run)
        + (f" Always zero, up to rounding: {', '.join(still)}." if still else ""),
        columns=2 if len(moved) in (2, 4) else 3,
    )
    for panel, key in enumerate(moved):
        figure.y(panel)["exponentformat"] = "power"
        for boundary, rows in run.boundaries.items():
            points = thin(list(zip(rows.of("step"), accumulate(rows.of(key)), strict=True)))
            _draw(figure, run, boundary, points, panel=panel, showlegend=panel == 0)
    return figure


def _note_sampling(run: Run) -> str:
    """Whether the sums are over all steps or over some of them."""
    steps = sorted(set(run.of_entries("step")))
    stride = max((b - a for a, b in pairwise(steps)), default=1)
    if stride == 1:
        return "There is an entry for every step, so this is the whole drift."
    return f"There is an entry only every {stride} steps, so these are sums over {len(steps):,} sampled steps."


def _checks(run: Run) -> Figure:
    figure = Figure("checks", "Transport and residual against their tolerances")
    figure.panels([f"|{key}|" for key, _ in _LIMITS], "", columns=2)
    zeros = broken = 0
    for panel, (key, limit) in enumerate(_LIMITS):
        for boundary, rows in run.boundaries.items():
            # NaN breaks it, too
            bad = [(step, abs(value)) for step, most, value in rows.points(limit, key) if not abs(value) <= most]
            zeros, broken = zeros + sum(not value for value in rows.of(key)), broken + len(bad)
            _draw_against_limit(figure, run, boundary, rows, key, limit, panel)
            if bad:
                _draw_violations(figure, bad, boundary, panel)
        figure.y(panel).update(type="log", exponentformat="power", dtick=_decades(figure, panel))
    see = [
        "Each dot is one entry. Each dotted line is the largest error that rounding can cause: below it the law held.",
        f"Values that broke it, marked red: {broken:,}." if broken else "No entry broke it.",
    ]
    if all(limit is None for limit in run.of_entries("transport_tolerance")):
        see.append("A lossy codec rounds messages, so transport is its error and has no tolerance.")
    if zeros:
        see.append(f"{zeros:,} values are exactly zero, which a log scale cannot show.")
    figure.see = " ".join(see)
    return figure


def _decades(figure: Figure, panel: int) -> int:
    """Decades between ticks of a log axis, so that there are only a few ticks, each at a power of ten."""
    shown = [math.log10(y) for trace in figure.of_panel(panel) for y in trace["y"] if 0 < y < math.inf]
    return max(1, round((max(shown) - min(shown)) / 5)) if shown else 1


def _draw_against_limit(
    figure: Figure, run: Run, boundary: int, rows: Columns, key: str, limit: str, panel: int
) -> None:
    """Dots for the entries of a boundary (the largest of each window) and a dotted line for their tolerance."""

    def largest(window: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
        return max(window, key=lambda point: abs(point[1]))

    points = [(step, abs(value)) for step, value in thin(list(rows.points(key)), largest) if value]
    marker = {"size": 4.5, "opacity": 0.6}
    _draw(figure, run, boundary, points, panel=panel, showlegend=panel == 1, mode="markers", marker=marker)
    if limits := thin([(step, most) for step, most in rows.points(limit) if most]):
        _draw(figure, run, boundary, limits, panel=panel, dash="dot", showlegend=False)


def _draw_violations(figure: Figure, bad: list[tuple[int, float]], boundary: int, panel: int) -> None:
    figure.line(
        bad,
        "law broken",
        RED,
        panel=panel,
        legendgroup="broken",
        showlegend=not any(trace["name"] == "law broken" for trace in figure.traces),
        mode="markers",
        marker={"size": 11, "symbol": "x"},
        hovertemplate=f"step %{{x}}: %{{y:.3g}}<br>{_label(boundary)}",
    )


def _angle(run: Run) -> Figure:
    figure = Figure("angle", "Weight alignment")
    known = {boundary: thin(list(rows.points("angle_degrees"))) for boundary, rows in run.boundaries.items()}
    if not any(known.values()):
        why = f"Rule {run.rule} has no fixed feedback matrix shaped like a weight matrix, so there is no angle."
        return figure.without(why)
    figure.panels(
        ["angle between W and B, degrees"],
        "The angle between the weights above a boundary and its feedback matrix: 0° is the feedback of "
        "backpropagation, 90° is unrelated to it. An aligned start begins near 0°, a random one near 90°.",
    )
    figure.y()["rangemode"] = "tozero"
    for boundary, points in known.items():
        if points:
            _draw(figure, run, boundary, points, showlegend=True)
    if max(degrees for points in known.values() for _, degrees in points) > 60:
        figure.level(90)
    return figure
