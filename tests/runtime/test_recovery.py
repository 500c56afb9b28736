"""Layers are killed, hang, lose their streams: the run goes back to its last checkpoint by itself, and ends with the
weights, figures and books of an undisturbed one.
"""

import os
import signal

import pytest
from runs import assert_same_bits

from distfa import data
from distfa.errors import LayerLost
from distfa.experiment.run import run
from distfa.experiment.run_dir import read_about
from distfa.experiment.spec import parse
from distfa.experiment.subject import subject_for


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", limit=300)


def spec(where, **changes):
    return parse(
        {
            "model": {"hidden": [512, 384]},
            "epochs": 40,
            "batch_size": 32,
            "ledger": {"every": 5},
            "probe": {"every": 10},
            "checkpoint": {"every": 10, "seconds": 0},
            "wire": {"deadline_seconds": 6},
            "run_dir": str(where),
            **changes,
        }
    )


def trained(s, dataset, **how):
    subject = subject_for(s, dataset)
    return run(s, subject.network, dataset, model=subject.model, **how)


class Harm:
    """An observer that sends a layer's process a signal, once, when so many steps are done."""

    def __init__(self, *planned):
        self.planned = list(planned)

    def __call__(self, progress):
        if self.planned and progress.tally.steps >= self.planned[0][0] and progress.layers():
            _, layer, kind = self.planned.pop(0)
            os.kill(progress.layers()[layer - 1]["pid"], kind)


@pytest.mark.parametrize(
    ("changes", "planned"),
    [
        ({"rule": "dfa"}, [(50, 1, signal.SIGKILL), (250, 3, signal.SIGKILL)]),
        pytest.param(
            {"rule": "fa", "schedule": "async", "micro_batches": 4},
            [(4, 2, signal.SIGKILL), (150, 2, signal.SIGSTOP)],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["sync", "async"],
)
def test_killed_and_hung_layers_are_replaced_and_nothing_is_lost(changes, planned, digits, tmp_path):
    whole, weights = trained(spec(tmp_path / "serial", engine="serial", **changes), digits)
    harm = Harm(*planned)
    result, found = trained(spec(tmp_path / "ray", **changes), digits, observer=harm)
    assert_same_bits(found, weights)
    assert not harm.planned
    assert [entry["attempt"] for entry in result.recoveries] == [2, 3]
    assert all(entry["step"] % 10 == 0 and entry["step"] <= entry["failed_at"] for entry in result.recoveries)
    assert (result.train_loss, result.test_loss) == (whole.train_loss, whole.test_loss)
    assert result.ledger == whole.ledger
    assert result.alignment == whole.alignment
    assert result.steps == whole.steps


@pytest.mark.slow
def test_too_many_recoveries_end_the_run_with_one_message_and_it_can_go_on(digits, tmp_path):
    harm = Harm((5, 1, signal.SIGKILL), (300, 2, signal.SIGKILL))
    s = spec(tmp_path / "ray", ray={"max_recoveries": 1}, checkpoint={"every": 1000})
    with pytest.raises(LayerLost, match=r"1 recoveries since the last checkpoint did not help \(ray.max_recoveries\)"):
        trained(s, digits, observer=harm)
    assert read_about(tmp_path / "ray")["status"] == "failed"
    _, weights = trained(spec(tmp_path / "serial", engine="serial"), digits)
    _, found = trained(s.model_copy(update={"engine": "serial"}), digits, resume=tmp_path / "ray")
    assert_same_bits(found, weights)
