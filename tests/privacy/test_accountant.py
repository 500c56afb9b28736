"""The accountant against closed forms and published figures."""

import math

import pytest

from distfa.errors import SpecError
from distfa.privacy import accountant
from distfa.privacy.accountant import Accountant, solve_noise


def normal_cdf(x):
    return 0.5 * math.erfc(-x / math.sqrt(2))


def gaussian_delta(epsilon, mu):
    """Balle & Wang, ICML 2018: exact for one Gaussian mechanism, or several whose mu^2 add up."""
    return normal_cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * normal_cdf(-mu / 2 - epsilon / mu)


@pytest.mark.parametrize(("noise", "steps"), [(1.0, 1), (5.0, 16), (20.0, 100)])
def test_without_sampling_it_is_the_exact_gaussian_mechanism(noise, steps):
    found = Accountant(noise=noise, rate=1.0, delta=1e-5, steps=steps).total
    mu = math.sqrt(steps) / noise
    assert gaussian_delta(found, mu) <= 1e-5 * (1 + 1e-6)  # never below the truth
    assert gaussian_delta(0.99 * found, mu) > 1e-5  # and within 1 % of it


def test_abadi_et_al_2016():
    # q 0.01, noise 4, 10,000 steps, delta 1e-5: epsilon 1.26 by the moments accountant, whose bound is looser
    found = Accountant(noise=4.0, rate=0.01, delta=1e-5, steps=10_000)
    assert 0.9 < found.total < 1.26
    assert found._by_renyi(10_000) == pytest.approx(1.26, abs=0.25)


def test_one_sampled_step_of_a_tiny_rate_reveals_less_than_the_whole():
    sampled, whole = (Accountant(noise=1.0, rate=rate, delta=1e-5, steps=1).total for rate in (0.01, 1.0))
    assert sampled < 0.5 * whole


def test_along_the_way_it_never_falls_and_never_exceeds_the_total():
    found = Accountant(noise=1.2, rate=0.05, delta=1e-5, steps=100)
    way = [found.after(steps) for steps in range(101)]
    assert way[0] == 0.0
    assert way == sorted(way)
    assert way[-1] == found.total


def test_solved_noise_keeps_to_the_budget_and_is_little_above_the_least():
    sampled = {"rate": 0.05, "delta": 1e-5, "steps": 200}
    noise = solve_noise(2.0, **sampled)
    assert Accountant(noise=noise, **sampled).total <= 2.0
    assert Accountant(noise=noise * 0.98, **sampled).total > 2.0


def test_a_run_may_make_the_steps_that_keep_to_the_budget():
    found = Accountant(noise=1.0, rate=0.05, delta=1e-5, steps=400)
    budget = 0.6 * found.total
    steps = found.steps_within(budget)
    assert Accountant(noise=1.0, rate=0.05, delta=1e-5, steps=steps).total <= budget
    assert Accountant(noise=1.0, rate=0.05, delta=1e-5, steps=steps + 1).total > budget
    assert found.steps_within(found.total) == 400


def test_a_budget_that_no_noise_keeps_to_is_refused():
    with pytest.raises(SpecError, match=r"do not keep to with any noise"):
        solve_noise(1e-9, rate=1.0, delta=1e-12, steps=10**9)


def test_what_has_to_be_installed_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "dp_accounting", None)
    with pytest.raises(SpecError, match=r"pip install 'distfa\[privacy\]'"):
        accountant._library()
