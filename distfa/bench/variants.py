"""Rules and codecs as benchmarks name them: ``dkp@50`` is dkp whose feedback is renewed every 50 steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from distfa import codecs
from distfa.core import rules
from distfa.core.base.model import Network
from distfa.errors import UsageError
from distfa.settings import RunSpec

Pair = tuple[str, str]


def parse_variant(word: str) -> dict[str, Any]:
    """The settings of a spec for it.

    Raises:
        UsageError: What follows the @ is not a whole number above 0.
    """
    rule, at, every = word.partition("@")
    if at and not (every.isdecimal() and int(every) > 0):
        raise UsageError(f"rule {word!r}: the number of steps between renewals comes after the @, as in {rule}@50")
    return {"rule": rule} | ({"feedback": {"renew": {"every": int(every)}}} if at else {})


def pair(word: str) -> Pair:
    """``int8/bf16`` or ``int8`` as the codecs (of activations, of errors)."""
    up, _, down = word.partition("/")
    return up, down or up


def name(spec: RunSpec) -> str:
    """The name of a spec's rule."""
    every = spec.feedback.renew.every
    return spec.rule if every is None else f"{spec.rule}@{every}"


def spare_errors(spec: RunSpec, network: Network) -> RunSpec:
    """The spec with errors sent without what the receiver's ReLU stops, if rule, network and codec make that worth it.

    So the baseline gets this too.
    """
    rule = rules.build_rule(spec.recipe(network))
    stopped = any(network[boundary].rectified and rule.carries_teaching(boundary) for boundary in network.boundaries)
    if not stopped or codecs.CODECS.get(spec.codec.errors, codecs.FP32).fixed_length:
        return spec
    return spec.model_copy(update={"feedback": replace(spec.feedback, active_only=True)})
