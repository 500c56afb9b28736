"""A private run from the spec to its result: its key, its claim, and what is refused before the start."""

import json
import stat
from dataclasses import replace

import numpy as np
import pytest
import torch
from runs import blobs
from torch import nn

from distfa.core.base.activations import Activation
from distfa.core.base.model import plain_network
from distfa.data.build import build_dataset
from distfa.errors import CheckpointError, DataError, ModelError, SpecError
from distfa.intake.private import make_private
from distfa.intake.subject import Subject, subject_of
from distfa.privacy.key import RunKey
from distfa.run.run import run
from distfa.settings import amend, parse_spec

pytest.importorskip("dp_accounting")
X, Y = blobs(6, 3, 60)
DATA = build_dataset(name="toy", train=(X[:50], Y[:50]), test=(X[50:], Y[50:]), scale=(0.0, 1.0))
NETWORK = plain_network((6, 5, 3), activation=Activation(name="relu"))
SUBJECT = Subject(network=NETWORK)


def spec(tmp_path=None, **changes):
    """A small private run, in this process."""
    place = {} if tmp_path is None else {"run_dir": str(tmp_path / "run"), "privacy.key": str(tmp_path / "secret.key")}
    plain = parse_spec({"privacy": {"noise": 2.0, "clip": 1.0}, "engine": "serial", "batch_size": 10, "epochs": 2})
    return amend(plain, {**place, "log_every": 1, "checkpoint.every": 3, "checkpoint.seconds": 0, **changes})


def carry_out(asked, **options):
    return run(asked, NETWORK, options.pop("data", DATA), **options)


class StopAt:
    """Ends a run, as Ctrl-C would, once so many steps have been made."""

    def __init__(self, steps):
        self.steps = steps

    def __call__(self, progress):
        if progress.tally.steps >= self.steps:
            raise KeyboardInterrupt


def interrupted(tmp_path, **changes):
    asked = spec(tmp_path, **changes)
    with pytest.raises(Exception, match="interrupted after 7 steps"):
        carry_out(asked, observer=StopAt(7))
    return asked, tmp_path / "run"


def test_the_result_the_log_and_the_run_directory_say_what_was_spent_and_nothing_secret(tmp_path):
    result, _ = carry_out(spec(tmp_path))
    secret = (tmp_path / "secret.key").read_bytes()
    assert stat.S_IMODE((tmp_path / "secret.key").stat().st_mode) == 0o600
    assert result.privacy["private"] is True
    assert "50 samples, 10 steps of 10 expected rows, noise 2" in result.privacy["claim"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    epsilons = [line["epsilon"] for line in lines if line["kind"] == "step"]
    assert len(epsilons) == 10
    assert epsilons == sorted(epsilons)
    assert epsilons[-1] == result.privacy["epsilon"] > epsilons[0] > 0
    kept = [file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()]
    key = RunKey(secret)
    for hidden in (secret, key.of_layer(1), key.of_layer(2), key.of_sampling()):
        assert not any(hidden in content or hidden.hex().encode() in content for content in kept)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["inputs"]["seen"] is None


def test_two_runs_differ_and_two_seeded_ones_do_not(tmp_path):
    found = []
    for number, seeded in enumerate((False, False, True, True)):
        place = tmp_path / str(number)
        place.mkdir()
        result, weights = carry_out(spec(place, **{"privacy.seeded": seeded}))
        found.append(weights["0.weight"])
        assert result.privacy["private"] is not seeded
    assert not torch.equal(found[0], found[1])
    assert torch.equal(found[2], found[3])
    assert result.privacy["epsilon"] is None
    assert result.privacy["claim"].startswith("not private, as noise and samples are drawn from the seed")


def test_a_run_that_was_cut_short_and_resumes_ends_as_the_whole(tmp_path):
    seeded = {"privacy.seeded": True}  # so that two runs have the same key
    asked, where = interrupted(tmp_path, **seeded)
    _, whole = carry_out(spec(**seeded, run_dir=str(tmp_path / "whole")))
    _, weights = carry_out(asked, resume=where)
    assert all(torch.equal(whole[key], weights[key]) for key in whole)


def test_a_resumed_run_needs_its_own_key_and_the_same_data_and_settings(tmp_path):
    asked, where = interrupted(tmp_path)
    other = tmp_path / "other.key"
    RunKey.new().write(other)
    with pytest.raises(CheckpointError, match=r"is not that of the run in"):
        carry_out(amend(asked, {"privacy.key": str(other)}), resume=where)
    with pytest.raises(SpecError, match=r"cannot read the key .*missing.*; a private run resumes only with its key"):
        carry_out(amend(asked, {"privacy.key": str(tmp_path / "missing")}), resume=where)
    with pytest.raises(CheckpointError, match=r"its noise must not be used for another"):
        carry_out(asked, data=replace(DATA, train_x=DATA.train_x + 1.0), resume=where)
    with pytest.raises(CheckpointError, match=r"its noise must not be used for another"):
        carry_out(amend(asked, {"optimizer.lr": 0.02}), resume=where)
    (tmp_path / "moved.key").write_bytes((tmp_path / "secret.key").read_bytes())
    (tmp_path / "moved.key").chmod(0o600)
    carry_out(amend(asked, {"privacy.key": str(tmp_path / "moved.key")}), resume=where)


def test_a_second_run_with_the_same_key_is_refused_and_leaves_nothing(tmp_path):
    carry_out(spec(tmp_path))
    with pytest.raises(SpecError, match=r"a key is for one run only"):
        carry_out(spec(tmp_path, run_dir=str(tmp_path / "second")))
    assert not (tmp_path / "second").exists()


def test_a_key_in_the_run_directory_is_refused(tmp_path):
    with pytest.raises(SpecError, match=r"in the run directory, which is copied and passed on"):
        carry_out(spec(tmp_path, **{"privacy.key": str(tmp_path / "run" / "secret.key")}))
    assert not (tmp_path / "run").exists()


def test_a_run_ends_before_it_would_exceed_its_budget(tmp_path):
    whole = make_private(spec(), SUBJECT, DATA, RunKey.new()).accountant
    budget = whole.after(6)
    result, _ = carry_out(spec(tmp_path, **{"privacy.epsilon": budget}))
    assert 6 <= result.steps < 10
    assert result.privacy["epsilon"] <= budget


def test_samples_are_the_drivers_choice_and_may_be_none():
    made = make_private(spec(batch_size=1, epochs=4), SUBJECT, DATA, RunKey.of_seed(0))
    sizes = [rows for epoch in made.dataset.order.batches for rows in epoch]
    assert len(sizes) == 200
    assert 0 in sizes
    assert [len(epoch) for epoch in made.dataset.order.batches] == [50] * 4


def refused(error, match, *, data=DATA, subject=SUBJECT, **changes):
    with pytest.raises(error, match=match):
        make_private(spec(**changes), subject, data, RunKey.new())


def test_a_delta_that_would_let_a_sample_be_published_is_refused():
    refused(SpecError, r"privacy.delta is 0.02, but the training set has 50 samples", **{"privacy.delta": 0.02})


def test_more_expected_rows_than_samples_are_refused():
    refused(SpecError, r"batch_size is 51, but the training set has 50 samples", batch_size=51)


def test_a_budget_below_a_single_step_is_refused():
    refused(SpecError, r"a single step with privacy.noise 2 exceeds it", **{"privacy.epsilon": 0.01})


def test_measured_normalisation_is_refused_and_given_figures_are_taken():
    measured = build_dataset(name="toy", train=(X[:50], Y[:50]))
    refused(DataError, r"normalised by its samples' own mean", data=measured)
    assert make_private(spec(), SUBJECT, measured.scaled(0.0, 2.0), RunKey.new()).dataset.std == 2.0


def test_tokens_are_refused():
    tokens = build_dataset(name="words", train=(np.zeros((50, 4), np.int64), Y[:50]), tokens=7)
    refused(DataError, r"has tokens, whose vocabulary is made from its samples", data=tokens)


class Centred(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


@pytest.mark.parametrize(
    ("module", "match"),
    [
        (nn.BatchNorm1d(5), r"module '1' \(BatchNorm1d\) cannot be private: .*use nn.GroupNorm"),
        (nn.Dropout(0.1), r"module '1' \(Dropout\) cannot be private: it drops numbers by a sample's place"),
        (Centred(), r"module '1' \(Centred\) cannot be private: distfa does not know that it keeps samples apart"),
        (nn.Softmax(dim=0), r"module '1' \(Softmax\) cannot be private"),
    ],
    ids=["BatchNorm", "Dropout", "own", "Softmax"],
)
def test_modules_that_may_mix_samples_are_refused(module, match):
    model = nn.Sequential(nn.Linear(6, 5), module, nn.Linear(5, 3))
    asked = spec(rule="fa")
    subject = subject_of(model, asked, DATA)
    refused(ModelError, match, subject=subject, rule="fa")


def test_feedback_that_would_be_measured_on_samples_is_refused():
    model = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 3))
    subject = subject_of(model, spec(), DATA)
    refused(SpecError, r"init is 'aligned', for which rule 'dfa' would take .* from samples", subject=subject)
    assert make_private(spec(init="random"), subject, DATA, RunKey.new()).mechanism.clip == 1.0


def test_a_cluster_that_keys_would_travel_to_is_refused(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    refused(SpecError, r"RAY_ADDRESS is '10.0.0.1:6379', and keys .* may be plain text", engine="ray")


SHARES = ("equal", "parameters")


def test_shares_are_equal_or_by_the_number_of_parameters():
    equal, sized = (make_private(spec(**{"privacy.shares": s}), SUBJECT, DATA, RunKey.new()).mechanism for s in SHARES)
    assert equal.shares == pytest.approx((0.5**0.5,) * 2)
    assert sized.shares == pytest.approx(((35 / 53) ** 0.5, (18 / 53) ** 0.5))
