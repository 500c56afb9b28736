"""torch's optimizers and schedulers: rule bp with the user's own objects equals torch's own loop with them."""

import copy

import numpy as np
import pytest
import torch
from runs import blobs
from torch import nn
from torch.optim import SGD, Adam, AdamW
from torch.optim import lr_scheduler as of_torch

import distfa
import distfa.data
from distfa.errors import SpecError
from distfa.intake.subject import subject_for
from distfa.settings import parse_spec

EPOCHS, ROWS = 12, 60


def model():
    torch.manual_seed(0)
    layers = nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 7, bias=False), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 5)
    return nn.Sequential(*layers).double()


@pytest.fixture(scope="module")
def data():
    x, y = blobs(6, 5, ROWS)
    return x, y


def torchs_loop(net, data, optimizer, scheduler=None):
    x, y = (torch.from_numpy(part) for part in data)
    for _ in range(EPOCHS):  # one step per epoch: the order of the samples does not matter
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return net


def ours(net, data, run_dir, **settings):
    settings = {"rule": "bp", "engine": "serial", "init": "given", "dtype": "float64", "epochs": EPOCHS} | settings
    settings |= {"batch_size": ROWS, "ledger": {"every": 1}, "probe": {"every": 0}, "checkpoint": {"every": 0}}
    trainer = distfa.Trainer(net, run_dir=run_dir, **settings)
    assert trainer.fit(data).ledger["violations"] == 0
    return trainer


def assert_equal(mine, theirs, start):
    for (key, a), b, c in zip(mine.named_parameters(), theirs.parameters(), start.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-11), key
        assert torch.equal(a, c) == torch.equal(b, c), key  # what torch leaves as it is, to the last bit


def lowered(optimizer, lr):
    for group in optimizer.param_groups:
        group["lr"] = lr
    return optimizer


def groups(net):
    return [
        {"params": net[0].parameters(), "lr": 0.3, "momentum": 0.5},
        {"params": [net[2].weight], "weight_decay": 0.1, "nesterov": True},
        {"params": net[5].parameters(), "lr": 0.0},
    ]


OPTIMIZERS = {
    "a subset": lambda net: SGD(net[2].parameters(), lr=0.5),
    "one parameter of a layer": lambda net: SGD([net[0].bias, net[5].weight], lr=0.5, momentum=0.9),
    "a normalisation alone": lambda net: Adam(net[3].parameters(), lr=0.05),
    "groups": lambda net: SGD(groups(net), lr=0.2, momentum=0.9),
    "groups of adam": lambda net: AdamW(
        [{"params": net[5].parameters(), "betas": (0.5, 0.9)}, {"params": net[0].parameters(), "lr": 1e-2}], lr=0.05
    ),
    "a lowered rate": lambda net: lowered(SGD(net.parameters(), lr=5.0), 0.05),
    "a rate that is a tensor": lambda net: Adam(net.parameters(), lr=torch.tensor(0.05, dtype=torch.float64)),
    "dampening": lambda net: SGD(net.parameters(), lr=0.3, momentum=0.9, dampening=0.4),
    "nesterov": lambda net: SGD(net.parameters(), lr=0.3, momentum=0.9, nesterov=True, weight_decay=0.01),
    "maximize": lambda net: SGD(net.parameters(), lr=0.01, maximize=True),
    "amsgrad": lambda net: Adam(net.parameters(), lr=0.1, amsgrad=True),
    "decoupled": lambda net: Adam(net.parameters(), lr=0.05, weight_decay=0.3, decoupled_weight_decay=True),
    "adamw": lambda net: AdamW(net.parameters(), lr=0.05),
    "foreach": lambda net: AdamW(net.parameters(), lr=0.05, foreach=True, maximize=True, amsgrad=True),
    "frozen beside": lambda net: SGD(net[0].requires_grad_(False) and net.parameters(), lr=0.3),
}


@pytest.mark.parametrize("made", OPTIMIZERS)
def test_an_optimizer_does_what_it_does_in_torchs_own_loop(tmp_path, data, made):
    net, peer, start = model(), model(), model()
    optimizer = OPTIMIZERS[made](net)
    before = copy.deepcopy(optimizer.state_dict())
    ours(net, data, tmp_path / "run", optimizer=optimizer)
    assert optimizer.state_dict() == before
    assert_equal(net, torchs_loop(peer, data, OPTIMIZERS[made](peer)), start)
    assert all(p.requires_grad for p in net.parameters()) == (made != "frozen beside")


def two_groups(net):
    return [{"params": net[5].parameters()}, {"params": net[0].parameters(), "lr": 0.01}]


def warm(step):
    return min(1.0, step / 4)


SCHEDULERS = {
    "StepLR": lambda o: of_torch.StepLR(o, 3, gamma=0.5),
    "LambdaLR per group": lambda o: of_torch.LambdaLR(o, [lambda e: 0.9**e, warm][: len(o.param_groups)]),
    "warmup from 0": lambda o: of_torch.LambdaLR(o, warm),
    "SequentialLR": lambda o: of_torch.SequentialLR(
        o, [of_torch.LinearLR(o, total_iters=4), of_torch.ExponentialLR(o, 0.8)], [4]
    ),
    "ChainedScheduler": lambda o: of_torch.ChainedScheduler(
        [of_torch.ConstantLR(o, total_iters=4), of_torch.ExponentialLR(o, 0.9)], optimizer=o
    ),
    "OneCycleLR": lambda o: of_torch.OneCycleLR(o, 0.3, total_steps=EPOCHS),  # moves momentum, or betas
    "CyclicLR": lambda o: of_torch.CyclicLR(o, 0.01, 0.3, step_size_up=3),
    "CosineAnnealingWarmRestarts": lambda o: of_torch.CosineAnnealingWarmRestarts(o, 5),
}


@pytest.mark.parametrize(
    ("optimizer", "scheduler", "how"),
    [
        ("sgd", "StepLR", "object"),
        ("groups", "LambdaLR per group", "object"),
        ("groups", "warmup from 0", "function"),
        ("adam", "SequentialLR", "object"),
        ("groups", "ChainedScheduler", "object"),
        *((optimizer, "OneCycleLR", how) for optimizer in ("sgd", "adam", "groups") for how in ("object", "function")),
        ("sgd", "CyclicLR", "object"),
        ("groups", "CosineAnnealingWarmRestarts", "object"),
    ],
)
def test_a_scheduler_moves_what_it_moves_in_torchs_own_loop(tmp_path, data, optimizer, scheduler, how):
    make = {
        "sgd": lambda net: SGD(net.parameters(), lr=0.1, momentum=0.9),
        "adam": lambda net: Adam(net.parameters(), lr=0.02),
        "groups": lambda net: SGD(
            [{"params": net[5].parameters()}, {"params": net[0].parameters(), "lr": 0.01}], 0.1, 0.9
        ),
    }[optimizer]
    net, peer, start = model(), model(), model()
    mine, theirs = make(net), make(peer)
    given = SCHEDULERS[scheduler](mine) if how == "object" else SCHEDULERS[scheduler]
    before = copy.deepcopy(mine.state_dict())
    ours(net, data, tmp_path / "run", optimizer=mine, scheduler=given)
    assert mine.state_dict() == before
    assert_equal(net, torchs_loop(peer, data, theirs, SCHEDULERS[scheduler](theirs)), start)


class Decay(of_torch.LRScheduler):
    """A scheduler of one's own, which moves weight decay and no rate."""

    def get_lr(self):
        for group in self.optimizer.param_groups:
            group["weight_decay"] = 0.01 * self.last_epoch
        return [group["lr"] for group in self.optimizer.param_groups]


def test_a_scheduler_of_ones_own_may_move_any_setting(tmp_path, data):
    net, peer = model(), model()
    ours(net, data, tmp_path / "run", optimizer=lambda p: AdamW(p, lr=0.05), scheduler=Decay)
    theirs = AdamW(peer.parameters(), lr=0.05)
    assert_equal(net, torchs_loop(peer, data, theirs, Decay(theirs)), model())


def test_a_schedulers_own_optimizer_is_the_runs_if_no_other_is_given(tmp_path, data):
    net, peer = model(), model()
    ours(net, data, tmp_path / "run", scheduler=of_torch.StepLR(SGD(net[2].parameters(), lr=0.5), 3))
    theirs = SGD(peer[2].parameters(), lr=0.5)
    assert_equal(net, torchs_loop(peer, data, theirs, of_torch.StepLR(theirs, 3)), model())


def test_a_rate_that_was_lowered_between_two_fits_counts(tmp_path, data):
    net, peer = model(), model()
    optimizer = SGD(net.parameters(), lr=0.5)
    trainer = ours(net, data, tmp_path / "run", optimizer=optimizer)
    lowered(optimizer, 0.05)
    trainer.fit(data)
    torchs_loop(peer, data, SGD(peer.parameters(), lr=0.5))
    assert_equal(net, torchs_loop(peer, data, SGD(peer.parameters(), lr=0.05)), model())


@pytest.mark.parametrize("rule", ["fa", "dfa", "kp", "dkp", "usf", "drtp"])
def test_under_every_rule_a_subset_is_a_subset_and_the_books_hold(tmp_path, data, rule):
    net, start = model(), model()
    optimizer = SGD(
        [{"params": net[0].parameters(), "lr": 0.05}, {"params": net[5].parameters()}], lr=0.2, momentum=0.9
    )
    scheduler = of_torch.OneCycleLR(optimizer, 0.2, total_steps=EPOCHS)
    ours(net, data, tmp_path / "run", rule=rule, optimizer=optimizer, scheduler=scheduler)
    changed = {key for key, p in net.named_parameters() if not torch.equal(p, start.get_parameter(key))}
    assert changed == {"0.weight", "0.bias", "5.weight", "5.bias"}


def hooked(net):
    optimizer = SGD(net.parameters(), lr=0.1)
    optimizer.register_step_pre_hook(lambda *_: None)
    return optimizer


def used(net):
    optimizer = Adam(net.parameters())
    torchs_loop(net, (np.zeros((2, 6)), np.zeros(2, np.int64)), optimizer)
    return optimizer


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (hooked, "the optimizer has hooks around its steps"),
        (used, "has already taken steps, and its state .exp_avg, exp_avg_sq, step. would be lost"),
        (
            lambda net: SGD(model().parameters(), lr=1),
            "parameter 0 in group 0 of the optimizer does not belong",
        ),
        (lambda net: torch.optim.LBFGS(net.parameters()), "is a LBFGS; distfa supports sgd, adam, adamw"),
        (lambda net: torch.optim.RMSprop(net.parameters()), "is a RMSprop; distfa supports sgd, adam, adamw"),
        (lambda net: SGD(net.parameters(), lr=1, differentiable=True), "has differentiable=True"),
        (
            lambda net: lambda parameters: SGD(parameters, lr=-1),
            "optimizer cannot be created .ValueError",
        ),
    ],
)
def test_what_a_run_cannot_honour_is_refused_by_name(made, says):
    net = model()
    with pytest.raises(SpecError, match=says):
        distfa.Trainer(net, optimizer=made(net), dtype="float64")


@pytest.mark.parametrize(
    ("model_name", "says"),
    [
        ("mlp", "all of mlp's are trained alike; leave it out"),
        ("lenet", "names the parameter 'no.weight', which the model"),
    ],
)
def test_groups_in_a_spec_name_parameters_of_the_model(model_name, says):
    raw = {"model": model_name, "optimizer": {"groups": [{"parameters": ["no.weight"], "lr": 0.1}]}}
    with pytest.raises(SpecError, match=says):
        subject_for(parse_spec(raw), distfa.data.load("digits", limit=20))


@pytest.mark.parametrize(
    ("scheduler", "says"),
    [
        (lambda o: of_torch.ReduceLROnPlateau(o), "follows metrics of the run"),
        (
            lambda o: of_torch.StepLR(SGD(model().parameters(), lr=1), 3),
            "belongs to a different optimizer than the one",
        ),
        (lambda o: of_torch.OneCycleLR(o, 0.1, total_steps=EPOCHS - 2), "the scheduler ends before the run: .*10"),
        (lambda o: 3, "scheduler is a int; it must be one of torch.optim.lr_scheduler"),
    ],
)
def test_a_scheduler_that_cannot_be_followed_is_refused_before_the_start(tmp_path, data, scheduler, says):
    net = model()
    optimizer = SGD(net.parameters(), lr=0.1)
    with pytest.raises(SpecError, match=says):
        ours(net, data, tmp_path / "run", optimizer=optimizer, scheduler=scheduler(optimizer))
    assert not (tmp_path / "run").exists()
