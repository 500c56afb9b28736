"""The conclusion of a comparison of bytes: which rule reached the target with the fewest, and in how many seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distfa.core.rules import BASELINE
from distfa.lab.links.accuracy_curve import Curve
from distfa.text.words import cell

_LOSSLESS = "lossless/lossless"
Row = dict[str, Any]


def conclusion(rows: Sequence[Row], rules: Sequence[str], by_seed: Sequence[Sequence[Curve]], target: float) -> str:
    """One sentence.

    Args:
        rows: The rows of distfa, with ``payload_mb``, ``steps`` and perhaps ``seconds`` to the target.
        rules: The rule of each row.
        by_seed: The curves of each row, one per seed, in the same order of seeds.
        target: Test accuracy, 0 to 1.
    """
    mine, others = ([place for place, rule in enumerate(rules) if (rule == BASELINE) is own] for own in (True, False))
    bp, best = (_least(rows, places, "payload_mb") for places in (mine, others))
    goal = f"{target:.2%} test accuracy"
    if best is None:
        if bp is None:
            return f"conclusion: none reached {goal}"
        return f"conclusion: only {BASELINE} was measured to {goal}"
    ours = rows[best]
    sent = f"{cell(ours['payload_mb'])} MB"
    if bp is None:
        return f"conclusion: to {goal} {_named(ours)} sends the fewest bytes, {sent}; {BASELINE} did not reach it"
    base = rows[bp]
    if ours["payload_mb"] < base["payload_mb"]:
        said = f"conclusion: to {goal} {_named(ours)} sends the fewest bytes, {sent}"
    else:
        said = (
            f"conclusion: to {goal} {BASELINE} with {base['codec']} sends the fewest bytes, "
            f"{cell(base['payload_mb'])} MB; of the others {_named(ours)} does, {sent}"
        )
    said += f": {cell(ours['payload_mb'] / base['payload_mb'])} of what {BASELINE} sends with {base['codec']}"
    said += _in_seeds(by_seed[best], by_seed[bp])
    exact = next((rows[place] for place in mine if rows[place]["codec"] == _LOSSLESS and rows[place]["steps"]), base)
    if exact is not base:
        said += f" and {cell(ours['payload_mb'] / exact['payload_mb'])} of what lossless {BASELINE} sends"
    ratio = ours["steps"] / base["steps"]
    said += "; it takes as many steps" if ratio == 1 else f"; it takes {cell(ratio)} times {BASELINE}'s steps"
    return said + _soonest(rows, mine, others)


def _in_seeds(ours: Sequence[Curve], theirs: Sequence[Curve]) -> str:
    """In how many seeds fewer bytes were sent, where there are several: two medians may be of different seeds."""
    if len(ours) < 2:
        return ""
    fewer = sum(
        a.reached and not (b.reached and b.payload_bytes[-1] <= a.payload_bytes[-1])
        for a, b in zip(ours, theirs, strict=True)
    )
    return f" (fewer in {fewer} of {len(ours)} seeds)"


def _soonest(rows: Sequence[Row], mine: Sequence[int], others: Sequence[int]) -> str:
    soonest, bp = (_least(rows, places, "seconds") for places in (others, mine))
    if soonest is None or bp is None:
        return ""
    return (
        f"; over the links {_named(rows[soonest])} reaches it in {cell(rows[soonest]['seconds'])} s, {BASELINE} "
        f"with {rows[bp]['codec']} in {cell(rows[bp]['seconds'])} s"
    )


def _least(rows: Sequence[Row], places: Sequence[int], key: str) -> int | None:
    """The place of the row with the least of a figure, among those that have it."""
    return min((place for place in places if rows[place].get(key)), key=lambda place: rows[place][key], default=None)


def _named(row: Row) -> str:
    return f"{row['name']} with {row['codec']}"
