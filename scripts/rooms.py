"""The rooms of the package: which there are, in which order, and who imports whom.

python scripts/rooms.py     draws docs/rooms.svg
"""

from __future__ import annotations

import ast
import functools
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "distfa"
PICTURE = ROOT / "docs" / "rooms.svg"
ROOMS = [  # lowest first; a room imports from its own line and the lines above it; rooms inside a room have their own
    {"text"},
    {"errors", "files", "version", "v1"},
    {"own"},
    {"models", "privacy"},
    {"core.base"},
    {"core.modules"},
    {"core.rules"},
    {"core.schedule"},
    {"core.books"},
    {"core"},
    {"codecs", "data"},
    {"costs"},
    {"sections"},
    {"transport"},
    {"runtime"},
    {"runtime.ray"},
    {"testing"},
    {"settings"},
    {"intake"},
    {"run.disk"},
    {"run"},
    {"pages"},
    {"report"},
    {"measuring"},
    {"bench", "plan"},
    {"lab"},
    {"launch"},
    {"api"},
    {"cli"},
]
RANK = {name: rank for rank, names in enumerate(ROOMS) for name in names}


@functools.cache
def files() -> list[tuple[Path, str]]:
    """(path, its name in the package) of every module, generated code left out."""
    named = ((path, path.relative_to(PACKAGE).as_posix()) for path in sorted(PACKAGE.rglob("*.py")))
    return [(path, name) for path, name in named if not name.startswith("v1/")]


@functools.cache
def nodes() -> list[tuple[str, ast.AST]]:
    """(file, node) of every node of every module's syntax tree."""
    return [(name, node) for path, name in files() for node in ast.walk(ast.parse(path.read_text()))]


def imports() -> Iterator[tuple[str, str]]:
    """(file, dotted name) of every import in the package."""
    for name, node in nodes():
        if isinstance(node, ast.Import):
            yield from ((name, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((name, f"{node.module}.{alias.name}") for alias in node.names)


def room(dotted: str) -> str | None:
    """The innermost room of a module, by its dotted name without ``distfa.``; None for the package's own face."""
    parts = dotted.split(".")
    return next((name for n in range(len(parts), 0, -1) if (name := ".".join(parts[:n])) in RANK), None)


def room_of_file(name: str) -> str | None:
    """The room of a file, by its name in the package."""
    return room(name.removesuffix(".py").replace("/", "."))


def crossings() -> Iterator[tuple[str, str, str, str]]:
    """(file, its room, dotted name, that one's room) of every import of distfa's own."""
    for file, dotted in imports():
        if dotted.startswith("distfa."):
            mine, other = room_of_file(file), room(dotted.removeprefix("distfa."))
            if mine is not None and other is not None:
                yield file, mine, dotted, other


def arrows() -> list[tuple[str, str]]:
    """(room, one that it imports), without those that follow from the others."""
    below: dict[str, set[str]] = defaultdict(set)
    for _, mine, _, other in crossings():
        if mine != other:
            below[mine].add(other)

    @functools.cache
    def reached(name: str) -> frozenset[str]:
        return frozenset(below[name]).union(*map(reached, below[name]))

    return sorted(
        (name, other)
        for name in sorted(below)
        for other in below[name]
        if not any(other in reached(via) for via in below[name] - {other})
    )


def levels(drawn: list[tuple[str, str]]) -> dict[str, int]:
    """How many arrows lead down from each room at most."""

    @functools.cache
    def level(name: str) -> int:
        return max((level(other) + 1 for mine, other in drawn if mine == name), default=0)

    return {name: level(name) for pair in drawn for name in pair}


def describe(drawn: list[tuple[str, str]]) -> str:
    """The arrows as one line, which the picture carries so that a test can read it."""
    return "; ".join(f"{mine} > {other}" for mine, other in drawn)


def draw() -> None:
    """Draw the rooms, lowest at the bottom, and an arrow from each to those it imports."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "rooms", "font.family": "sans-serif"}
    from matplotlib import pyplot

    drawn = arrows()
    rows: dict[int, list[str]] = defaultdict(list)
    for name, level in levels(drawn).items():
        rows[level].append(name)
    place: dict[str, tuple[float, float]] = {}
    for level in sorted(rows):  # each above the middle of what it imports
        imported = {name: [place[other][0] for mine, other in drawn if mine == name] for name in rows[level]}
        middle = {name: sum(places) / max(1, len(places)) for name, places in imported.items()}
        ordered = sorted(rows[level], key=lambda name: (middle[name], name))
        for at, name in enumerate(ordered):
            place[name] = (at - (len(ordered) - 1) / 2, level)
    figure, axes = pyplot.subplots(figsize=(9, 0.62 * (len(rows) + 1)))
    box = {"boxstyle": "round,pad=0.35", "facecolor": "#eef3fb", "edgecolor": "#4c6a9c"}
    for name, (x, y) in place.items():
        axes.text(x, y, name.replace(".", "/"), ha="center", va="center", size=10, color="#1b2a41", bbox=box, zorder=2)
    for mine, other in drawn:
        axes.annotate(
            "",
            xy=(place[other][0], place[other][1] + 0.27),
            xytext=(place[mine][0], place[mine][1] - 0.27),
            arrowprops={"arrowstyle": "-|>", "color": "#7a8aa5", "linewidth": 0.9, "connectionstyle": "arc3,rad=0.04"},
            zorder=1,
        )
    wide = max(abs(x) for x, _ in place.values()) + 0.6
    axes.set(xlim=(-wide, wide), ylim=(-0.6, len(rows) - 0.4))
    axes.axis("off")
    figure.savefig(
        PICTURE, metadata={"Date": None, "Description": describe(drawn)}, bbox_inches="tight", facecolor="white"
    )


if __name__ == "__main__":
    draw()
