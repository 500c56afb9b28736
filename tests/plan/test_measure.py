"""A real calibration and a real run, as small as they come; no figure of time is asserted but that there is one."""

import psutil
import torch
from plans import setting

from distfa import data
from distfa.experiment import spec as specs
from distfa.plan import check, measure, setup
from distfa.plan.calibration import Calibration
from distfa.plan.neighbour import neighbours


def test_a_calibration_holds_every_product_of_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "_SECONDS_EACH", 0.002)
    monkeypatch.setattr(measure, "_CACHE_BYTES", 2**16)
    monkeypatch.setattr(measure, "_MESSAGES", 5)
    job = setting((12, 8, 6, 4), rule="kp", micro_batches=4).job
    found = measure.calibrate(job, {"cores": 1})
    shapes = {product[:3] for product in found.products}
    assert {(8, 12, 8), (8, 8, 6), (8, 6, 4), (8, 8, 12), (6, 8, 8)} <= shapes
    assert all(product[3] > 0 for product in found.products)
    assert found.call_seconds > 0
    assert found.process_bytes > 50 * 2**20
    assert all(cost.seconds > 0 for cost in (found.send, found.receive, found.carry))
    found.save(tmp_path / "c.json")
    assert Calibration.load(tmp_path / "c.json") == found


def test_a_check_makes_the_run_and_times_its_steps():
    spec = specs.parse({"data": {"name": "digits", "limit": 100}, "model": {"hidden": [16]}})
    dataset = data.load("digits", limit=100)
    found = check.measure(spec, setup.job(spec, (64, 10), None).recipe.network, dataset, 5)
    assert found.steps == 5
    assert min(found.median_seconds, found.mean_seconds) > 0


def test_neighbours_are_at_work_as_long_as_they_are_wanted_and_no_longer():
    before = set(psutil.Process().children())
    with neighbours(2, rows=8, width=16, dtype=torch.bfloat16):
        mine = set(psutil.Process().children()) - before
        assert len(mine) == 2
        assert all(process.is_running() and "distfa.plan.neighbour" in process.cmdline() for process in mine)
    assert not any(process.is_running() for process in mine)
