"""Finds what is a user's own in a spec and tries it, so that what is wrong with it shows before anything starts."""

from __future__ import annotations

import math

from torch import Tensor

from distfa.core import rules
from distfa.core.base.model import Network
from distfa.errors import SpecError
from distfa.settings import RunSpec, parse_spec


def check_own_parts(spec: RunSpec, network: Network) -> None:
    """Refuse parts of a user's own that cannot be found, or do not fit the other settings or the network.

    Raises:
        SpecError: Says what it must be.
        ModelError: To import one raised an error.
    """
    if spec.rule in rules.RULES:
        return
    rule = rules.RULES[spec.rule]
    parse_spec(spec.model_dump())  # now that the rule is there, which keys it takes is known
    _try_rule(f"rule {spec.rule!r}", rule(spec.recipe(network)), network)


def _try_rule(what: str, rule: rules.Rule, network: Network) -> None:
    """Ask it for everything that it says of a boundary."""
    last, places = len(network), len(network.positions)
    for boundary in network.boundaries:
        try:
            origin, width, teacher = rule.origin(boundary), rule.width(boundary), rule.teacher(boundary)
        except Exception as exc:
            raise SpecError(f"{what} fails at boundary {boundary}: {type(exc).__name__}: {exc}") from exc
        if origin is not None and not boundary < origin <= last:
            raise SpecError(
                f"{what}: origin({boundary}) is {origin!r}; it must be a layer above, {boundary + 1} to {last}, or None"
            )
        if teacher is None:
            continue
        if not isinstance(teacher, Tensor):
            raise SpecError(
                f"{what}: teacher({boundary}) is a {type(teacher).__name__}; it must be a torch.Tensor or None"
            )
        rows = rule.shape(boundary)[-1] if rule.is_direct else width
        wanted = (rows, math.prod(network.shapes[boundary][places:]))
        if tuple(teacher.shape) != wanted:
            raise SpecError(f"{what}: teacher({boundary}) has shape {tuple(teacher.shape)}; it must have {wanted}")
