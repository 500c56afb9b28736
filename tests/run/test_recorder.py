"""What is written down while no step ends: where the layers are, and who waits for whom."""

from pathlib import Path

from distfa.core.books.records import StepRecord
from distfa.run import recorder
from distfa.run.disk.events import Events
from distfa.run.disk.run_dir import RunDir
from distfa.run.recorder import Recorder
from distfa.run.result import Tally
from distfa.settings import RunSpec


class Unwritten(Events):
    """Takes figures for TensorBoard, and keeps none."""

    def add(self, step, values, cosines=None):
        pass


class Kept(RunDir):
    """Keeps the records in a list."""

    def __init__(self):
        self.rows = []
        self.events = Unwritten(Path())

    def log(self, record):
        self.rows.append(record)


def test_layers_are_written_down_once_all_are_known_and_again_while_nothing_moves(monkeypatch):
    kept, layers = Kept(), []
    found = Recorder(kept, RunSpec(), steps=900, boundaries=lambda: [], layers=lambda: layers)
    found.tick()
    assert kept.rows == []  # nobody has said yet how it is doing
    layers.append({"layer": 1, "waiting_for": "an error"})
    found.tick()
    found.tick()
    assert [(row["kind"], row["step"], row["seconds"]) for row in kept.rows] == [("traffic", 0, 0.0)]
    step = StepRecord(step=100, epoch=0, loss=1.0, correct=1, rows=2, seconds=0.5)
    tally = Tally(classification=True)
    tally.add(step)
    found.log(step, tally)
    monkeypatch.setattr(recorder, "_STILL_SECONDS", 0.0)
    found.tick()
    assert (kept.rows[-1]["step"], kept.rows[-1]["layers"]) == (100, layers)
    assert kept.rows[-1]["seconds"] > 0.5
    found.go_back(2, 0.25)  # a recovery
    found.tick()
    assert (kept.rows[-1]["step"], kept.rows[-1]["seconds"]) == (2, 0.25)
