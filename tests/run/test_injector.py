"""Faults of a plan are caused one after the other, each once the one before it has been recovered from."""

import pytest
from test_checkpoint import spec

from distfa import data
from distfa.errors import SpecError
from distfa.intake.subject import subject_for
from distfa.run.engines import RayEngine
from distfa.run.injector import Injector
from distfa.run.run import run
from distfa.runtime.faults import Fault, PlannedFault


class Struck(RayEngine):
    """Layers on Ray that note what is done to them."""

    def __init__(self):
        self.faults = []

    def inject(self, layer, fault):
        self.faults.append((layer, fault))


def test_the_next_fault_waits_for_its_step_and_for_the_recovery_from_the_one_before():
    engine = Struck()
    found = Injector(
        [PlannedFault(fault=Fault.KILL, layer=2, step=3), PlannedFault(fault=Fault.CUT, layer=1, step=4)], engine
    )
    assert found.noticed(0.0) == {}
    found.inject(2, 0.0)
    assert engine.faults == []
    found.inject(3, 0.0)
    found.inject(5, 0.0)
    assert engine.faults == [(2, Fault.KILL)]
    noticed = found.noticed(1e9)
    assert (noticed["fault"], noticed["layer"]) == ("kill", 2)
    found.inject(5, 0.0)
    assert engine.faults == [(2, Fault.KILL), (1, Fault.CUT)]


def test_in_one_process_they_are_refused_before_the_run_begins(tmp_path):
    s, dataset = spec(tmp_path / "run"), data.load("digits", limit=100)
    with pytest.raises(SpecError, match="faults can be injected only into layers on Ray; use engine: ray"):
        run(s, subject_for(s, dataset).network, dataset, faults=[PlannedFault(fault=Fault.KILL, layer=1)])
    assert not (tmp_path / "run").exists()
