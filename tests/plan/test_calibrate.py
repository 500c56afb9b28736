"""A fit finds again what a simulated run was made with; slower parts and late threads cost what they should."""

from dataclasses import replace

import pytest
from plans import setting

from distfa.errors import PlanError
from distfa.plan.calibrate import agree
from distfa.plan.calibration import Calibration
from distfa.plan.predict import forecast
from distfa.plan.queues import Pool
from distfa.plan.short_run import ShortRun

PARTS = Calibration(wake_seconds=0.0)


def crowded(**changes):
    """More layers than cores, and messages that count."""
    usual = {"cores": 2, "calibration": PARTS, "rule": "fa", "micro_batches": 4}
    return setting((784, 512, 640, 576, 10), nodes=1, **{**usual, **changes})


@pytest.mark.parametrize("rule", ["bp", "fa", "dfa", "brsf"])
@pytest.mark.parametrize("optimizer_passes", [1.0, 50.0])
def test_a_machine_half_as_fast_takes_twice_as_long(rule, optimizer_passes):
    parts = replace(PARTS, update_seconds=PARTS.update_seconds * optimizer_passes)
    once, twice = (forecast(crowded(rule=rule, calibration=c)).steady for c in (parts, parts.slow_down(2.0)))
    assert twice.step_seconds == pytest.approx(2 * once.step_seconds, rel=1e-6)
    assert twice.core_seconds == pytest.approx(2 * once.core_seconds, rel=1e-6)


@pytest.mark.parametrize(("factor", "wait"), [(1.0, 0.0), (1.3, 0.0), (0.8, 3e-4), (1.2, 1e-3)])
def test_a_fit_finds_the_factor_and_the_wait_of_the_run(factor, wait):
    planned = crowded()
    truth = replace(PARTS.slow_down(factor), wake_seconds=wait)
    steady = forecast(replace(planned, calibration=truth)).steady
    found = agree(planned, ShortRun(step_seconds=steady.step_seconds, core_seconds=steady.core_seconds))
    assert found.run_factor == pytest.approx(factor, rel=1e-6)
    assert found.flops_per_second == pytest.approx(truth.flops_per_second, rel=1e-6)
    again = forecast(replace(planned, calibration=found)).steady
    assert again.step_seconds == pytest.approx(steady.step_seconds, rel=0.03)  # ties in the order of arrival turn
    other = {"rule": "bp", "micro_batches": 2}
    expected, planned_so = (forecast(crowded(**other, calibration=c)).step_seconds for c in (truth, found))
    assert planned_so == pytest.approx(expected, rel=0.05)


def test_without_processor_time_there_is_no_fit():
    with pytest.raises(PlanError, match="processor time of the layers' processes cannot be read"):
        agree(crowded(), ShortRun(step_seconds=1.0, core_seconds=0.0))


def test_where_the_wait_changes_nothing_it_is_none():
    planned = crowded(cores=64)
    steady = forecast(planned).steady
    found = agree(planned, ShortRun(step_seconds=steady.step_seconds, core_seconds=steady.core_seconds))
    assert found.wake_seconds == 0.0


@pytest.mark.parametrize(
    ("taken_until", "now", "begins"), [((0.0, 9.0), 1.0, 1.0), ((8.0, 9.0), 1.0, 3.0), ((2.5, 9.0), 1.0, 3.0)]
)
def test_a_thread_that_wakes_up_waits_where_all_cores_are_taken(taken_until, now, begins):
    pool = Pool("cores", 2, wake_seconds=2.0)
    for until in taken_until:
        pool.run(0.0, until)
    assert pool.interrupt(now, 0.5) == begins + 0.5
