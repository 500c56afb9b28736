"""Layers are killed, hang, lose their streams: the run goes back to its last checkpoint by itself, and ends with the
weights, figures and books of an undisturbed one.
"""

import json

import pytest
import ray
from runs import assert_same_bits

from distfa import data
from distfa.api.callbacks import BestWeights
from distfa.api.caller import Caller
from distfa.api.history import History
from distfa.errors import LayerLost
from distfa.intake.subject import subject_for
from distfa.run.disk.run_dir import read_about
from distfa.run.run import run
from distfa.runtime.faults import Fault, PlannedFault
from distfa.runtime.ray.actors import RayRun
from distfa.settings import parse_spec

pytestmark = pytest.mark.usefixtures("shared_ray")
EPOCHS = 10


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", limit=300)


def spec(where, **changes):
    return parse_spec(
        {
            "model": {"hidden": [512, 384]},
            "epochs": EPOCHS,
            "batch_size": 32,
            "ledger": {"every": 5},
            "probe": {"every": 10},
            "checkpoint": {"every": 10, "seconds": 0, "at_evaluation": True},
            "wire": {"deadline_seconds": 6},
            "run_dir": str(where),
            **changes,
        }
    )


def trained(s, dataset, **how):
    subject = subject_for(s, dataset)
    return run(s, subject.network, dataset, model=subject.model, **how)


def following():
    """An observer with callbacks that must know in the end what they would have known without any fault."""
    columns = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
    told = [BestWeights(), BestWeights(monitor="train_loss")]
    return Caller(told, History(), columns=columns, evaluates_every=1)


def knows(observer):
    """What it knows, but for the clock."""
    known = observer.state_dict()
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in known["history"]]
    return rows, [(state["best"], state["step"]) for _, state in known["callbacks"]]


def planned(*faults):
    return [PlannedFault(fault=fault, layer=layer, step=step) for fault, layer, step in faults]


@pytest.mark.parametrize(
    ("changes", "faults"),
    [
        ({"rule": "dfa"}, planned((Fault.KILL, 1, 30), (Fault.CUT, 3, 50))),
        pytest.param(
            {"rule": "fa", "schedule": "async", "micro_batches": 4},
            planned((Fault.KILL, 2, 4), (Fault.HANG, 2, 60)),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["sync", "async"],
)
def test_after_faults_a_run_goes_on_and_nothing_is_lost(changes, faults, digits, tmp_path, monkeypatch):
    """One more layer is lost while the first is being replaced."""
    undisturbed, observer = following(), following()
    serial = spec(tmp_path / "serial", engine="serial", **changes)
    whole, weights = trained(serial, digits, observer=undisturbed)
    plain = RayRun._build

    def build(self, job, limit_seconds):
        if job.run_id.endswith("-2"):
            ray.kill(self._handles[1].actor)
        plain(self, job, limit_seconds)

    monkeypatch.setattr(RayRun, "_build", build)
    result, found = trained(spec(tmp_path / "ray", **changes), digits, faults=faults, observer=observer)
    assert_same_bits(found, weights)
    assert knows(observer) == knows(undisturbed)
    assert result.best == whole.best
    assert [entry["attempt"] for entry in result.recoveries] == [3, 4]
    assert [(entry["fault"], entry["layer"]) for entry in result.recoveries] == [
        (done.fault.value, done.layer) for done in faults
    ]
    assert all(entry["step"] % 10 == 0 and entry["step"] <= entry["failed_at"] for entry in result.recoveries)
    assert (result.train_loss, result.test_loss) == (whole.train_loss, whole.test_loss)
    assert result.ledger == whole.ledger
    assert result.alignment == whole.alignment
    assert result.steps == whole.steps
    said = [json.loads(line) for line in (tmp_path / "ray" / "log.jsonl").read_text().splitlines()]
    assert {line["run"] for line in said} == {read_about(tmp_path / "ray")["run_id"]}
    assert [line["attempt"] for line in said if "; resuming from step" in line["message"]] == [2, 3, 4]
    died = [line for line in said if line["level"] == "error" and "its process died" in line["message"]]
    assert (died[0]["attempt"], died[0]["layer"]) == (1, faults[0].layer)
    last = read_about(tmp_path / "ray")["last_errors"]
    assert last[str(faults[1].layer)]["attempt"] == 3
    assert said[-1]["message"] == "the run has finished"
    assert {layer["queue"] for layer in result.facts["layers"]} == {0}
    rows = [json.loads(line) for line in (tmp_path / "ray" / "metrics.jsonl").read_text().splitlines()]
    assert {len(row["layers"]) for row in rows if row["kind"] == "traffic"} == {3}
    rows = len(digits.train_x) * EPOCHS
    sent = [row["up_payload"] for row in result.bytes["boundaries"]]
    assert sent == [rows * width * 4 for width in (512, 384)]  # as if nothing had been sent twice


@pytest.mark.slow
def test_too_many_recoveries_end_the_run_with_one_message_and_it_can_go_on(digits, tmp_path):
    faults = planned((Fault.KILL, 1, 5), (Fault.KILL, 2, 80))
    s = spec(tmp_path / "ray", ray={"max_recoveries": 1}, checkpoint={"every": 1000})
    with pytest.raises(LayerLost, match=r"1 recoveries since the last checkpoint did not help \(ray.max_recoveries\)"):
        trained(s, digits, faults=faults)
    assert read_about(tmp_path / "ray")["status"] == "failed"
    _, weights = trained(spec(tmp_path / "serial", engine="serial"), digits)
    _, found = trained(s.model_copy(update={"engine": "serial"}), digits, resume=tmp_path / "ray")
    assert_same_bits(found, weights)
