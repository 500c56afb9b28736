"""Each rule at its own best: a search over rate and decay before anything is compared, and several seeds after."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from distfa.bench import accuracy_curve, variants
from distfa.bench.accuracy_curve import Curve
from distfa.experiment.spec import RunSpec, parse

_DEADLINE_SECONDS = 3600.0


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is tried.

    Attributes:
        rates: Learning rates.
        decays: Steps over which a cosine takes the rate to 0, which are also all the steps there are.
        seeds: Of the comparison, from the spec's own on; the search takes the first.
    """

    rates: tuple[float, ...] = ()
    decays: tuple[int, ...] = ()
    seeds: int = 1

    @property
    def candidates(self) -> int:
        """Settings tried for each rule; 0 where nothing is tuned."""
        return len(self.rates) * len(self.decays)


def tune(
    specs: Sequence[RunSpec], search: Search, *, every: int, target: float, say: Callable[[str], None]
) -> list[RunSpec]:
    """Every spec with the settings that its rule does best with: the fewest steps to the target, by lossless codecs.

    Where none gets there, those with the best accuracy. Codecs change the steps by little, so they are not tuned apart.

    Args:
        specs: One per rule and codec; the first of a rule is the lossless one.
        search: What is tried; nothing where there are no candidates.
        every: Steps between evaluations.
        target: Test accuracy, 0 to 1.
        say: Told what came of it.

    Raises:
        BenchError: A run failed.
    """
    if not search.candidates:
        return list(specs)
    best: dict[str, RunSpec] = {}
    for spec in specs:
        if (rule := variants.name(spec)) not in best:
            tried = [with_rate(spec, rate, steps) for rate in search.rates for steps in search.decays]
            curves = accuracy_curve.measure(tried, every=every, target=target, deadline_seconds=_DEADLINE_SECONDS)
            chosen, curve = min(zip(tried, curves, strict=True), key=lambda pair: _merit(pair[1]))
            best[rule] = chosen
            came = f"{curve.steps[-1]} steps" if curve.reached else f"not there, {max(curve.accuracy):.2%} at best"
            say(f"{rule}: rate {chosen.optimizer.lr:g}, decay over {chosen.max_steps} steps ({came})")
    return [with_rate(spec, (of := best[variants.name(spec)]).optimizer.lr, of.max_steps or 0) for spec in specs]


def with_rate(spec: RunSpec, rate: float, steps: int) -> RunSpec:
    """The spec with a rate that a cosine takes to 0 over so many steps."""
    told = spec.model_dump(mode="json")
    told["optimizer"] |= {"lr": rate, "schedule": "cosine"}
    return parse(told | {"max_steps": steps, "epochs": steps, "eval_every": steps})


def over_seeds(
    specs: Sequence[RunSpec], seeds: int, *, every: int, target: float, say: Callable[[str], None]
) -> list[list[Curve]]:
    """The curves of every spec, one per seed.

    Raises:
        BenchError: A run failed.
    """
    found: list[list[Curve]] = [[] for _ in specs]
    for number in range(seeds):
        seeded = [spec.model_copy(update={"seed": spec.seed + number}) for spec in specs]
        say(f"accuracy of {len(specs)} configurations side by side, until {target:.2%}, seed {seeded[0].seed}")
        curves = accuracy_curve.measure(seeded, every=every, target=target, deadline_seconds=_DEADLINE_SECONDS)
        for mine, curve in zip(found, curves, strict=True):
            mine.append(curve)
    return found


def median(curves: Sequence[Curve]) -> Curve:
    """The curve in the middle by steps to the target; one that did not get there comes last."""
    ordered = sorted(curves, key=_merit)
    return ordered[(len(ordered) - 1) // 2]


def spread(curves: Sequence[Curve]) -> str | None:
    """Least and most steps to the target over the seeds, in words; None of one seed."""
    if len(curves) < 2:
        return None
    steps = [curve.steps[-1] for curve in curves if curve.reached]
    missed = f", {len(curves) - len(steps)} of {len(curves)} not" if len(steps) < len(curves) else ""
    return f"{min(steps)}-{max(steps)}{missed}" if steps else "none"


def best_accuracy(curves: Sequence[Curve]) -> float:
    """Median over the seeds of the best accuracy."""
    return statistics.median(max(curve.accuracy) for curve in curves)


def _merit(curve: Curve) -> tuple[bool, float, int]:
    """Small where good."""
    return not curve.reached, curve.steps[-1] if curve.reached else -max(curve.accuracy), curve.payload_bytes[-1]
