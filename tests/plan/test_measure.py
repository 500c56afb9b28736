"""A real calibration and a real run, as small as they come; no figure of time is asserted but that there is one."""

from contextlib import nullcontext

import psutil
import pytest
import torch
from plans import setting

from distfa import settings as specs
from distfa.plan import calibrate, measure, short_run
from distfa.plan.background import layers_at_work
from distfa.plan.calibration import Calibration
from distfa.plan.setup import Planned
from distfa.plan.short_run import ShortRun

pytestmark = pytest.mark.usefixtures("shared_ray")


def test_a_calibration_holds_every_product_of_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "_SECONDS_EACH", 0.002)
    monkeypatch.setattr(measure, "_CACHE_BYTES", 2**16)
    monkeypatch.setattr(measure, "_MESSAGES", 5)
    monkeypatch.setattr(measure, "layers_at_work", lambda *args, **kwargs: nullcontext())  # a test below has them
    job = setting((12, 8, 4), rule="kp", micro_batches=4).job
    found = measure.parts(job, {}, {"cores": 1})
    shapes = {product[:3] for product in found.products}
    assert {(8, 12, 8), (8, 8, 4), (8, 8, 12), (4, 8, 8)} <= shapes
    assert all(product[3] > 0 for product in found.products)
    assert found.call_seconds > 0
    assert found.process_bytes > 50 * 2**20
    assert all(cost.seconds > 0 for cost in (found.send, found.receive, found.carry))
    found.save(tmp_path / "c.json")
    assert Calibration.load(tmp_path / "c.json") == found


@pytest.mark.parametrize(
    "changes",
    [
        {"rule": "fa", "schedule": "async", "micro_batches": 4},
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"loss": "mse", "rule": "bp"}, marks=pytest.mark.slow),
    ],
)
def test_a_short_run_makes_the_run_and_times_it(changes):
    spec = specs.parse_spec({"data": {"name": "digits"}, "model": {"hidden": [16]}} | changes)
    planned = Planned(spec, (64, 10))
    found = short_run.run_briefly(spec, planned, planned.job().recipe.network, steps=500, expected_seconds=0.04)
    assert found.step_seconds > 0
    assert found.core_seconds > 0


def test_a_calibration_is_fitted_to_a_run_of_as_many_layers_as_the_machine_takes(monkeypatch):
    monkeypatch.setattr(calibrate, "_SECONDS", 0.1)
    monkeypatch.setattr(measure, "parts", lambda job, modules, machine: Calibration(machine=machine))
    made = []

    def run(spec, planned, network, *, steps, expected_seconds):
        made.append(network.sizes)
        assert spec.ray.address is None
        assert spec.device == "cpu"
        assert steps * expected_seconds >= 0.1
        return ShortRun(step_seconds=2 * expected_seconds, core_seconds=0.01)

    monkeypatch.setattr(short_run, "run_briefly", run)
    elsewhere = {"ray": {"address": "head:6379"}, "device": "cuda"}
    spec = specs.parse_spec({"data": {"name": "digits"}, "model": {"hidden": [24, 16]}, **elsewhere})
    found = calibrate.calibrate(Planned(spec, (64, 10)), 500, {"cores": 1})
    layers = 2 * psutil.cpu_count()
    assert made == [(64, 24, *[16] * (layers - 2), 10)]
    assert found.machine == {"cores": 1}
    assert found.run_factor > 0


def test_layers_in_the_background_are_at_work_as_long_as_they_are_wanted_and_no_longer():
    before = set(psutil.Process().children())
    with layers_at_work(2, rows=8, width=16, dtype=torch.bfloat16):
        mine = set(psutil.Process().children()) - before
        assert len(mine) == 2
        assert all(process.is_running() and "distfa.plan.background" in process.cmdline() for process in mine)
    assert not any(process.is_running() for process in mine)
