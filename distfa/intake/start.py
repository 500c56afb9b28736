"""How feedback starts: in words for the result, and refused where it would take more time or memory than there is."""

from __future__ import annotations

import os

import psutil

from distfa.core import rules
from distfa.core.base.model import Network
from distfa.core.base.recipe import Recipe
from distfa.core.modules.rows import MANY, directions, feedback_columns
from distfa.errors import SpecError
from distfa.settings import RunSpec
from distfa.text.words import human_bytes

MOST_RENEWED = 4096  # rows that go back through a layer separately
_KEPT, _MAKING = 12, 28  # bytes per number of B_l: B_l and its books; what making B_l takes on top, about


def start_in_words(recipe: Recipe) -> str:
    """``init``, and the rank by which the aligned start of a network with many outputs was made."""
    if not _sends_rows_back(recipe):
        return recipe.init
    found = {rank for layer in recipe.network.boundaries[1:] if (rank := directions(recipe.network, layer)) is not None}
    return f"{recipe.init} by rank {' and '.join(map(str, sorted(found)))}" if found else recipe.init


def check_start(spec: RunSpec, network: Network) -> None:
    """Refuse a start of direct feedback that takes too much.

    Raises:
        SpecError: Too many rows would go back through a layer separately, or be in one message, or B_l and what makes
            it do not fit into memory. Names the figure and the way out.
    """
    recipe = spec.recipe(network)
    if not rules.RULES[spec.rule].is_direct or rules.RULES[spec.rule].follows_shortcuts:
        return
    if _sends_rows_back(recipe):
        _check_rows(network)
        if spec.engine == "ray":
            _check_messages(spec, recipe)
    _check_memory(spec, network)


def _sends_rows_back(recipe: Recipe) -> bool:
    return rules.build_rule(recipe).renews(0)


def _check_rows(network: Network) -> None:
    for layer in range(len(network), 1, -1):
        number = _rows(network, layer)
        if network.outputs > MOST_RENEWED and number > MOST_RENEWED:
            raise SpecError(
                f"init is 'aligned': {number:,} rows of feedback would go back through layer {layer} one by one, "
                f"and more than {MOST_RENEWED:,} take too long; set init: random, put a narrower layer below the "
                "outputs, or make the last module a single Linear"
            )


def _rows(network: Network, layer: int) -> int:
    """How many rows go back through a layer separately; 0 where they go back at once."""
    spec, is_output = network[layer], layer == len(network)
    if spec.plain or (is_output and network.outputs > MANY and [kind for _, kind in spec.modules] == ["Linear"]):
        return 0
    rank = None if is_output else directions(network, layer)
    return network.outputs if rank is None else rank


def _check_messages(spec: RunSpec, recipe: Recipe) -> None:
    network, most = recipe.network, spec.wire.max_message_mib * 2**20
    for boundary in network.boundaries:
        needed = network.outputs * feedback_columns(network, boundary) * recipe.signal_dtype.itemsize
        if needed > most:
            mib = -(-needed // 2**20)
            raise SpecError(
                f"init is 'aligned': a row for each of the {network.outputs:,} outputs goes down the layers at "
                f"the start, {human_bytes(needed)} across boundary {boundary}, but a message may have at most "
                f"{human_bytes(most)}; "
                + (f"set wire.max_message_mib: {mib}, or " if mib < 2048 else "set ")
                + "init: random"
            )


def _check_memory(spec: RunSpec, network: Network) -> None:
    """Here only: what the nodes of a cluster have is not known before the start."""
    if spec.engine == "ray" and (spec.ray.address or os.environ.get("RAY_ADDRESS")):
        return
    held = [network.outputs * feedback_columns(network, boundary) for boundary in network.boundaries]
    at_once = sum(held) if spec.engine == "ray" else max(held, default=0)
    needed, there = _KEPT * sum(held) + _MAKING * at_once, psutil.virtual_memory().total
    if needed > there:
        raise SpecError(
            f"rule {spec.rule!r} keeps a matrix from each of the {network.outputs:,} outputs to every layer, and "
            f"would need about {human_bytes(needed)} to start, but this machine has {human_bytes(there)}: use a "
            "hop-by-hop rule (fa, kp), or narrower layers"
        )
