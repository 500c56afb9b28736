"""Reserves room for the layers on a Ray cluster: at once, after a wait while others hold it, or not at all."""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections import Counter
from collections.abc import Sequence

import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from distfa.errors import ClusterError
from distfa.runtime.placement import Bundle, fits, list_resources, shortfall
from distfa.runtime.ray import private
from distfa.runtime.ray.cluster import nodes
from distfa.runtime.ray.errors import translate_errors

_JOIN_SECONDS = 5.0  # seconds; a cluster that is just starting may not have all its nodes yet
_WORD_SECONDS = 10.0  # seconds between lines of progress
_HOLDERS_SHOWN = 4

log = logging.getLogger(__name__)


def reserve(
    bundles: Sequence[Bundle], placement: str, *, run_id: str, limit_seconds: float, noun: str = "layer"
) -> PlacementGroup:
    """Reserve one bundle per worker.

    What it waits for, and who holds it, is logged as a warning, which Python prints to stderr by default.

    Args:
        bundles: One bundle per worker.
        placement: Ray's strategy.
        run_id: The run's id, by which others see who holds what.
        limit_seconds: Longest wait while others hold what is needed.
        noun: What a worker is called in messages: ``layer`` if each hosts one.

    Raises:
        ClusterError: The cluster's nodes can never hold it, or others held it for too long.
    """
    _require_room(bundles, placement, limit_seconds, noun)
    began = word = time.monotonic()
    with translate_errors():
        group = placement_group(
            [dict(bundle) for bundle in bundles],
            strategy=placement.upper(),
            name=f"distfa run {run_id} {secrets.token_hex(3)}",
        )
        try:
            while not group.wait(timeout_seconds=max(0.0, min(1.0, began + limit_seconds - time.monotonic()))):
                now = time.monotonic()
                if now - began >= limit_seconds:
                    raise ClusterError(
                        f"Ray could not place {len(bundles)} {noun}s ({placement}) within {limit_seconds:.0f} s: "
                        f"{_state(bundles, group, noun)}; wait until there is room, ask for less under ray.resources, "
                        "or raise ray.startup_seconds"
                    )
                if word == began or now - word > _WORD_SECONDS:
                    word = now
                    log.warning(
                        "waiting for room on the Ray cluster, %.0f of at most %.0f s: %s",
                        now - began,
                        limit_seconds,
                        _state(bundles, group, noun),
                    )
        except BaseException:
            with contextlib.suppress(Exception):
                remove_placement_group(group)
            raise
    return group


def _require_room(bundles: Sequence[Bundle], placement: str, limit_seconds: float, noun: str) -> None:
    """Refuse what the nodes could not hold even if nobody else used them, unless an autoscaler may add nodes."""
    give_up = time.monotonic() + min(_JOIN_SECONDS, limit_seconds)
    while not fits(bundles, there := nodes(), placement):
        if private.has_autoscaler():
            log.warning("%s; waiting for the cluster's autoscaler", shortfall(bundles, there, placement, noun))
            return
        if time.monotonic() > give_up:
            inside = ray.get_runtime_context().worker.mode == ray.WORKER_MODE
            own = " (not counting what is held by the Ray task or actor that started the run)" if inside else ""
            raise ClusterError(
                f"Ray cannot place {len(bundles)} {noun}s ({placement}): "
                f"{shortfall(bundles, there, placement, noun)}{own}; ask for less under ray.resources, or "
                "attach to a larger cluster"
            )
        time.sleep(0.5)


def _state(bundles: Sequence[Bundle], group: PlacementGroup, noun: str) -> str:
    """The resources that are asked for, what is free, and who holds the rest, in words."""
    asked = Counter[str]()
    for bundle in bundles:
        asked.update(bundle)
    free, total = ray.available_resources(), ray.cluster_resources()
    there = ", ".join(f"{key} {free.get(key, 0.0):.4g} of {total.get(key, 0.0):.4g}" for key in sorted(asked))
    return f"the {noun}s ask for {list_resources(asked)} together; free: {there}{_holders(group)}"


def _holders(mine: PlacementGroup) -> str:
    """The placement groups that hold something, largest first, as far as Ray says."""
    held: list[tuple[float, str]] = []
    for found in placement_group_table().values():
        if found["state"] != "CREATED" or found["placement_group_id"] == mine.id.hex():
            continue
        together = Counter[str]()
        for bundle in found["bundles"].values():
            together.update(bundle)
        held.append(
            (
                sum(together.values()),
                f"{found['name'] or found['placement_group_id'][:8]!r} {list_resources(together)}",
            )
        )
    if not held:
        return "; the rest is held by Ray tasks and actors outside placement groups ('ray list actors' names them)"
    shown = ", ".join(words for _, words in sorted(held, reverse=True)[:_HOLDERS_SHOWN])
    more = len(held) - _HOLDERS_SHOWN
    return f"; held by placement groups: {shown}" + (f" and {more} more" if more > 0 else "")
