"""The payload of a run in one process, where nothing travels: what the wire would have carried, from shapes."""

from __future__ import annotations

from typing import Any

from distfa.codecs import Codec
from distfa.core.base.recipe import Recipe
from distfa.core.routes import Direction, Link, links


def computed_bytes(recipe: Recipe, *, rows: int, renewals: int, up: Codec, down: Codec) -> list[dict[str, Any]]:
    """Rows as those of ``boundary_bytes``, with the payload that a run on Ray counts, and None for what is not known.

    Whole messages are not known here, nor is what a codec sends whose length depends on the numbers.

    Args:
        recipe: Gives the links.
        rows: Training rows so far.
        renewals: How often feedback was renewed so far.
        up: Codec of activations.
        down: Codec of error messages.
    """
    judged = recipe.feedback.renew.below is not None  # how often layers told what they saw is not known here

    def sent(link: Link) -> int | None:
        if link.direction is Direction.RENEWAL:
            return link.columns * recipe.network.outputs * renewals * recipe.signal_dtype.itemsize
        codec = up if link.direction is Direction.UP else down
        return codec.max_payload_bytes(rows, link.columns, recipe.signal_dtype) if codec.fixed_length else None

    table = []
    for boundary in recipe.network.boundaries:
        ways: dict[str, list[int | None]] = {"up": [], "down": []}
        for link in links(recipe):
            if link.boundary == boundary and link.direction in (Direction.UP, Direction.DOWN, Direction.RENEWAL):
                ways["up" if link.direction.is_up else "down"].append(sent(link))
        row: dict[str, Any] = {"boundary": boundary}
        for way, parts in ways.items():
            known = [part for part in parts if part is not None]
            row[f"{way}_payload"] = None if judged or len(known) < len(parts) else sum(known)
        table.append(row | {"up_message": None, "down_message": None, "inside": 0})
    return table
