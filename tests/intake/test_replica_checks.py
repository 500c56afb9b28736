"""What replicas of a layer cannot do is refused before the start, with what to set."""

import numpy as np
import pytest
import torch
from torch import nn

import distfa
from distfa.errors import ModelError, SpecError
from distfa.intake.checks import check_replicas
from distfa.run import notes
from distfa.settings import parse_spec

MLP = distfa.split(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), (4,))
SAMPLES = np.random.default_rng(0).standard_normal((16, 4)).astype(np.float32), np.arange(16) % 2
OFF = {"ledger": {"every": 0}, "probe": {"every": 0}}


def spec(**changes):
    return parse_spec({"ray": {"replicas": 3}, "micro_batches": 3, "rule": "bp", **OFF, **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"micro_batches": 2},
            r"ray.replicas is 3, but a batch has a micro-batch for only 2 of them; set micro_batches to 3",
        ),
        ({"micro_batches": 4, "batch_size": 2}, r"for only 2 of them.*batch_size"),
        ({"ledger": {"every": 5}, "probe": {"every": 5}}, r"the ledger and probes yet; set ledger.every to 0, and"),
        ({"rule": "dfa", "feedback": {"renew": {"every": 4}}}, r"feedback that is renewed yet; leave feedback.renew"),
        ({"privacy": {"noise": 1.0, "clip": 1.0, "seeded": True}}, r"private training yet; leave privacy out"),
        ({"optimizer": {"name": "sgd", "fold": True}}, r"optimizer.fold"),
    ],
)
def test_what_replicas_cannot_do_is_refused(changes, said):
    with pytest.raises(SpecError, match=said):
        check_replicas(spec(**changes), MLP)


def test_what_they_can_do_is_not():
    check_replicas(spec(), MLP)


def test_running_statistics_are_refused_by_the_layers_name(tmp_path):
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
    given = {**OFF, "ray": {"replicas": 2}, "micro_batches": 2, "engine": "serial", "rule": "bp"}
    trainer = distfa.Trainer(model, run_dir=tmp_path / "run", **given)
    with pytest.raises(ModelError, match=r"layer 1 .*BatchNorm1d.* changes its state in its forward .*running_mean"):
        trainer.fit(SAMPLES)


def test_attributes_that_a_forward_changes_are_refused_too(tmp_path):
    class Counting(nn.Linear):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x)

    given = {**OFF, "ray": {"replicas": 2}, "micro_batches": 2, "engine": "serial", "rule": "bp"}
    trainer = distfa.Trainer(nn.Sequential(nn.Linear(4, 3), Counting(3, 2)), run_dir=tmp_path / "run", **given)
    with pytest.raises(ModelError, match=r"layer 2 .* in its forward \(attributes of 1\)"):
        trainer.fit(SAMPLES)


def test_a_frozen_layer_has_nothing_to_add_up(tmp_path):
    def weights(replicas):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3).requires_grad_(False), nn.Linear(3, 2))
        given = {"ray": {"replicas": replicas}, "micro_batches": 2, "engine": "serial", "rule": "dfa", "init": "given"}
        distfa.Trainer(model, run_dir=tmp_path / str(replicas), **OFF, **given, dtype="float64").fit(SAMPLES)
        return model.state_dict()

    torch.testing.assert_close(weights(2), weights(1))


def test_another_number_of_replicas_is_another_run_and_earlier_runs_had_one():
    mine, theirs = ({"spec": parse_spec({"ray": {"replicas": n}}).deciding()} for n in (1, 2))
    assert mine["spec"]["ray"] == {"replicas": 1}
    assert notes.deciding({"spec": {}})["ray.replicas"] == 1
    assert notes.deciding(mine) != notes.deciding(theirs)
