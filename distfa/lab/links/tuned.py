"""Each rule with each codec at its best settings: rates and decays are tried over all seeds before the comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distfa.bench import variants
from distfa.bench.pace import Say, paced
from distfa.lab.links import accuracy_curve
from distfa.lab.links.accuracy_curve import Curve
from distfa.lab.links.options import CommOptions
from distfa.settings import RunSpec, amend
from distfa.text.words import human_bytes

_DEADLINE_SECONDS = 3600.0  # seconds for one run
Tuned = tuple[RunSpec, list[Curve]]


def tune(specs: Sequence[RunSpec], options: CommOptions, say: Say) -> list[Tuned]:
    """Every spec with its best settings, and its curves with these, one per seed.

    Every rate is tried with every decay, the number of steps over which a cosine takes the rate to 0; without rates
    each spec keeps its own settings. Best is the fewest steps to the target of the median seed or, if that never
    reaches the target, the best accuracy.

    Args:
        specs: One per rule and codec.
        options: The settings to try, the seeds, the target and how often to evaluate.
        say: Called with the results.

    Raises:
        BenchError: A run failed.
    """
    how: dict[str, Any] = {"every": options.eval_steps, "target": options.share, "deadline_seconds": _DEADLINE_SECONDS}
    found, say = [], paced(say, len(specs))
    for spec in specs:
        tried = [with_rate(spec, rate, steps) for rate in options.rates for steps in options.decays] or [spec]
        seeds = range(spec.seed, spec.seed + options.seeds)
        runs = [one.model_copy(update={"seed": seed}) for one in tried for seed in seeds]
        curves = accuracy_curve.measure_curves(runs, **how)
        each = [curves[first : first + options.seeds] for first in range(0, len(curves), options.seeds)]
        chosen, mine = min(zip(tried, each, strict=True), key=lambda pair: _merit(median(pair[1])))
        found.append((chosen, mine))
        say(_came(chosen, mine, options))
    return found


def _came(spec: RunSpec, curves: Sequence[Curve], options: CommOptions) -> str:
    """The outcome of a configuration, in words."""
    middle, words = median(curves), variants.name(spec)
    words += f" with {spec.codec.activations}/{spec.codec.errors}: "
    if options.candidates:
        words += f"rate {spec.optimizer.lr:g}, decay over {spec.max_steps} steps, "
    there = f"{middle.steps[-1]} steps, {human_bytes(middle.payload_bytes[-1])}"
    return words + (there if middle.reached else f"target not reached, {max(middle.accuracy):.2%} at best")


def with_rate(spec: RunSpec, rate: float, steps: int) -> RunSpec:
    """The spec with a rate that a cosine takes to 0 over this many steps."""
    length = dict.fromkeys(("max_steps", "epochs", "eval_every"), steps)
    return amend(spec, {"optimizer.lr": rate, "optimizer.schedule": "cosine", **length})


def median(curves: Sequence[Curve]) -> Curve:
    """The middle curve by steps to the target; a curve that did not reach it comes last."""
    ordered = sorted(curves, key=_merit)
    return ordered[(len(ordered) - 1) // 2]


def spread(curves: Sequence[Curve]) -> str | None:
    """The fewest and the most steps to the target over the seeds, in words; None for one seed."""
    if len(curves) < 2:
        return None
    steps = [curve.steps[-1] for curve in curves if curve.reached]
    missed = f", {len(curves) - len(steps)} of {len(curves)} not" if len(steps) < len(curves) else ""
    return f"{min(steps)}-{max(steps)}{missed}" if steps else "none"


def _merit(curve: Curve) -> tuple[bool, float, int]:
    """A sort key; smaller is better."""
    return not curve.reached, curve.steps[-1] if curve.reached else -max(curve.accuracy), curve.payload_bytes[-1]
