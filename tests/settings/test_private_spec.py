"""Private training in a spec: what follows from it, and what is refused by name."""

import pytest

from distfa.core.base.optim import OptimizerConfig
from distfa.errors import SpecError
from distfa.settings import amend, parse_spec

ON = {"privacy": {"epsilon": 3.0, "clip": 1.0}}


def test_batches_are_poisson_samples_and_no_book_looks_at_unnoised_signals():
    spec = parse_spec({**ON, "data": "digits", "ledger": {"on_violation": "stop"}})
    assert (spec.data.name, spec.data.order) == ("digits", "poisson")
    assert (spec.ledger.every, spec.ledger.on_violation, spec.probe.every) == (0, "stop", 0)


def test_a_spec_without_privacy_is_as_before():
    spec = parse_spec({})
    assert (spec.data.order, spec.ledger.every, spec.probe.every) == ("drawn", 100, 100)


def test_what_is_written_out_reads_as_itself():
    spec = parse_spec(ON)
    assert parse_spec(spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"privacy": {"epsilon": 3.0}}, r"privacy.clip is missing"),
        ({"privacy": {"clip": 1.0}}, r"privacy needs an epsilon, or a noise"),
        ({"privacy.epsilon": 0}, r"privacy.epsilon is 0"),
        ({"privacy.epsilon": -1}, r"privacy.epsilon is -1"),
        ({"privacy.noise": 0}, r"privacy.noise is 0"),
        ({"privacy.clip": 0}, r"privacy.clip is 0"),
        ({"privacy.delta": 1.0}, r"privacy.delta is 1"),
        ({"privacy.shares": "mine"}, r"privacy.shares: 'mine' is not one of equal, parameters"),
        ({"rule": "kp"}, r"rule 'kp' has no proof of privacy"),
        ({"rule": "dkp"}, r"rule 'dkp' has no proof of privacy"),
        ({"rule": "toy_rule:Toy"}, r"rule 'toy_rule:Toy' is a user's own"),
        ({"loss": "torch.nn:HuberLoss"}, r"loss 'torch.nn:HuberLoss' is a user's own"),
        ({"data.order": "drawn"}, r"data.order is 'drawn', but only Poisson samples are accounted for"),
        ({"data.order": "given"}, r"data.order is 'given', but only Poisson samples are accounted for"),
        ({"schedule": "async", "micro_batches": 4}, r"schedule 'async' is not supported"),
        ({"feedback.renew.every": 10}, r"feedback.renew takes feedback from samples"),
        ({"rule": "fa", "feedback.inside": "feedback"}, r"feedback.inside 'feedback' is not supported"),
        ({"ledger.every": 5}, r"ledger.every is 5, but its figures come from samples"),
        ({"probe.every": 5}, r"probe.every is 5, but its figures come from samples"),
        ({"codec.activations": "int8"}, r"codec.activations is 'int8', which may round a sample by what is in others"),
        ({"codec.errors": "auto"}, r"codec.errors is 'auto'"),
        ({"dtype": "bfloat16"}, r"dtype 'bfloat16' rounds a norm too much"),
        ({"check_finite": False}, r"check_finite is off"),
        ({"optimizer": OptimizerConfig(name="sgd", fold=True)}, r"optimizer.fold makes the update before noise"),
        ({"ray.address": "10.0.0.1:6379"}, r"ray.address is '10.0.0.1:6379', and keys would go to the layers over Ray"),
    ],
)
def test_what_cannot_be_private_is_refused_by_name(changes, match):
    with pytest.raises(SpecError, match=match):
        amend(parse_spec(ON), changes)


def test_poisson_samples_are_for_private_training():
    with pytest.raises(SpecError, match=r"data.order is 'poisson', which is for private training"):
        parse_spec({"data": {"order": "poisson"}})


@pytest.mark.parametrize("given", [{"mean": 1.0}, {"std": 1.0}])
def test_mean_and_std_go_together(given):
    with pytest.raises(SpecError, match=r"data.mean and data.std go together"):
        parse_spec({"data": given})
