"""The table of feedback rules. A new rule is one file beside these, one row here, one oracle test.

A rule of one's own is found by its name, ``package.module:name``, and needs no row.
"""

from __future__ import annotations

import inspect
from typing import Any

from distfa.core.base.recipe import Recipe
from distfa.core.rules.base import DirectRule, HopRule, Rule
from distfa.core.rules.bp import Backpropagation
from distfa.core.rules.dfa import DirectFeedbackAlignment
from distfa.core.rules.dkp import DirectKolenPollack
from distfa.core.rules.drtp import DirectRandomTargetProjection
from distfa.core.rules.fa import FeedbackAlignment
from distfa.core.rules.kp import KolenPollack
from distfa.core.rules.signs import FixedMagnitudeSignFeedback, FreshMagnitudeSignFeedback, UniformSignFeedback
from distfa.core.rules.skip import SkipFeedback
from distfa.errors import DistfaError, SpecError
from distfa.own.parts import Parts

__all__ = ["BASELINE", "RULES", "DirectRule", "HopRule", "Rule", "able", "build_rule"]

_ALL: tuple[type[Rule], ...] = (
    Backpropagation,
    FeedbackAlignment,
    DirectFeedbackAlignment,
    UniformSignFeedback,
    FixedMagnitudeSignFeedback,
    FreshMagnitudeSignFeedback,
    KolenPollack,
    DirectKolenPollack,
    DirectRandomTargetProjection,
    SkipFeedback,
)


def _accept(value: Any) -> type[Rule]:
    if not (isinstance(value, type) and issubclass(value, Rule)):
        raise ValueError(
            f"is {value!r:.80}; a rule is a class that derives from distfa.DirectRule, distfa.HopRule or distfa.Rule"
        )
    if inspect.isabstract(value):
        missing = ", ".join(f"{name}()" for name in sorted(value.__abstractmethods__))
        raise ValueError(
            f"is a class without {missing}; define that, or derive from distfa.DirectRule or distfa.HopRule"
        )
    return value


RULES: Parts[type[Rule]] = Parts("rule", {rule.name: rule for rule in _ALL}, _accept)

BASELINE = Backpropagation.name
"""The rule that others are compared with."""


def build_rule(recipe: Recipe) -> Rule:
    """The rule the recipe names, for its network and seed.

    Raises:
        SpecError: It cannot be made from the recipe alone.
    """
    make = RULES[recipe.rule]
    try:
        return make(recipe)
    except Exception as exc:
        if isinstance(exc, DistfaError) or recipe.rule in RULES:
            raise
        said = f"{type(exc).__name__}: {exc}"
        raise SpecError(
            f"rule {recipe.rule!r} fails as it is made, with the recipe as its only argument: {said}"
        ) from exc


def able(trait: str) -> str:
    """The rules that have a trait such as ``takes_rank``, in words."""
    return ", ".join(name for name, rule in RULES.items() if getattr(rule, trait))
