"""The accountant: what a run of noisy steps reveals about a single sample, as (epsilon, delta).

Two data sets are neighbours if one has a sample more than the other. A step is the Gaussian mechanism on a Poisson
sample. dp-accounting composes the steps: by privacy loss distributions (Koskela et al., AISTATS 2020), which are tight,
for the whole run, and by Renyi divergences (Mironov 2017), which are looser but take no time, along the way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from distfa.errors import SpecError

_TIGHT_BELOW = 30.0  # epsilon; above it a distribution takes long, and the claim says nothing
_ORDERS = (*range(2, 64), 96, 128, 192, 256, 512)  # whole ones, which are fast and always converge
_LEAST_NOISE, _MOST_NOISE = 1e-2, 1e6
_LOSSES_APART = 1e-3  # rounding up to a multiple of it costs less than 1 % of epsilon
_CLOSE = 5e-3  # how near the least noise is solved, as a share of it
_LOOSER = 1.25  # how much more noise Renyi divergences ask for, at most


class Accountant:
    """Figures of one run.

    Args:
        noise: Standard deviation of the noise, as a multiple of ``clip``.
        rate: q, the probability by which a sample takes part in a step.
        delta: Of the claim.
        steps: Steps of the whole run.

    Raises:
        SpecError: dp-accounting is not installed.
    """

    def __init__(self, *, noise: float, rate: float, delta: float, steps: int) -> None:
        self.noise, self.rate, self.delta, self.steps = noise, rate, delta, steps
        self._dp = _library()

    @cached_property
    def total(self) -> float:
        """Epsilon of all steps."""
        loose = self._by_renyi(self.steps)
        return min(loose, self._by_losses(self.steps)) if loose < _TIGHT_BELOW else loose

    def after(self, steps: int) -> float:
        """An upper bound of epsilon after so many of the steps; after all of them, ``total``."""
        return min(self._by_renyi(steps), self.total) if steps else 0.0

    def steps_within(self, epsilon: float) -> int:
        """How many of the steps can be made before epsilon is exceeded."""
        if self.total <= epsilon:
            return self.steps
        low, high = 0, self.steps  # low steps keep to the budget, high ones do not
        while high - low > 1:
            middle = (low + high) // 2
            within = self._by_renyi(middle) <= epsilon or self._by_losses(middle) <= epsilon
            low, high = (middle, high) if within else (low, middle)
        return low

    def _event(self) -> Any:
        return self._dp.PoissonSampledDpEvent(self.rate, self._dp.GaussianDpEvent(self.noise))

    def _by_losses(self, steps: int) -> float:
        found = self._dp.pld.PLDAccountant(value_discretization_interval=_LOSSES_APART)
        found.compose(self._event(), steps)
        return float(found.get_epsilon(self.delta))

    def _by_renyi(self, steps: int) -> float:
        orders, per_step = self._renyi
        return float(self._dp.rdp.compute_epsilon(orders, per_step * steps, self.delta)[0])

    @cached_property
    def _renyi(self) -> tuple[Any, Any]:
        """(orders, the divergence of one step at each)."""
        found = self._dp.rdp.RdpAccountant(orders=_ORDERS)
        found.compose(self._event(), 1)
        return found._orders, found._rdp  # private: composing anew for every record would take longer than the steps


def solve_noise(epsilon: float, *, rate: float, delta: float, steps: int) -> float:
    """The least noise, within 0.5 %, with which a run keeps to epsilon.

    Raises:
        SpecError: None does, or dp-accounting is not installed.
    """

    def of(noise: float) -> Accountant:
        return Accountant(noise=noise, rate=rate, delta=delta, steps=steps)

    loose = _bisect(lambda noise: of(noise)._by_renyi(steps) <= epsilon, _LEAST_NOISE, _MOST_NOISE)
    if loose is None:
        raise SpecError(
            f"privacy.epsilon is {epsilon:g}, which {steps:,} steps do not keep to with any noise up to "
            f"{_MOST_NOISE:g}; allow more, make fewer steps, or set privacy.delta higher"
        )
    if epsilon >= _TIGHT_BELOW:
        return loose
    return _bisect(lambda noise: of(noise)._by_losses(steps) <= epsilon, loose / _LOOSER, loose) or loose


def _bisect(keeps: Callable[[float], bool], low: float, high: float) -> float | None:
    """The least noise in a range that ``keeps``, within ``_CLOSE``; None if the highest does not."""
    if not keeps(high):
        return None
    while high / low > 1 + _CLOSE:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if keeps(middle) else (middle, high)
    return high


def _library() -> Any:
    try:
        import dp_accounting
        import dp_accounting.pld
        import dp_accounting.rdp
    except ImportError as exc:
        raise SpecError(
            "private training needs dp-accounting, which adds up what a run reveals; install it with "
            "pip install 'distfa[privacy]'"
        ) from exc
    return dp_accounting
